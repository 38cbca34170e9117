"""A relay without a node: in the test's own event loop, or as a process that can be killed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from orchestrator.host.spawn import process_of
from orchestrator.host.state_dir import AgentFolder
from orchestrator.relay.server import Relay
from orchestrator.settings import NodeSettings
from tests.support.node import REPOSITORY
from tests.support.processes import poll, stop


def settings(run_dir: Path, url: str, node: str = "n") -> NodeSettings:
    """Return the settings of a relay."""
    return NodeSettings(_env_file=None, node_id=node, run_dir=run_dir, redis_url=url)  # type: ignore[call-arg]


@asynccontextmanager
async def relaying(run_dir: Path, url: str, node: str = "n") -> AsyncIterator[None]:
    """Run a relay in this event loop."""
    task = asyncio.create_task(Relay(settings(run_dir, url, node)).run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def enrol(run_dir: Path, agent_id: str, pid: int | None = None) -> None:
    """Write the record by which a process (by default this one) is an agent's."""
    AgentFolder(run_dir / "agents").write(process_of(agent_id, pid or os.getpid()))


class RelayProcess:
    """A relay as the node runs it."""

    def __init__(self, run_dir: Path, url: str, node: str = "n") -> None:
        self._socket, self._log = run_dir / "relay.sock", run_dir / "relay.log"
        self._environment = {
            "PATH": os.environ["PATH"], "RUN_DIR": str(run_dir), "REDIS_URL": url, "NODE_ID": node,
            "PYTHONPATH": str(REPOSITORY),
        }  # fmt: skip
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "orchestrator.relay"]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=self._environment, stdout=log, stderr=log, cwd=self._socket.parent)

    def listens(self) -> None:
        """Wait until it listens."""
        poll(lambda: self._socket.exists() or self.process.poll() is not None, "the relay listens")
        assert self.process.poll() is None, self._log.read_text()

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.process.wait()
        self._socket.unlink()  # so that `listens` waits for the next one

    def again(self) -> None:
        """Start the next one."""
        self.process = self._start()

    def pause(self) -> None:
        """Stop it with SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        """End it with SIGTERM; asserts that it exits with 0 and leaves no socket."""
        self.process.send_signal(signal.SIGCONT)
        stop(self.process)
        assert self.process.returncode == 0, self._log.read_text()
        assert not self._socket.exists()
