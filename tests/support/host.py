"""An agent host without Redis and LiveKit: a process and one client of it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from orchestrator.errors import HostUnavailable
from orchestrator.host.client import HostClient
from orchestrator.host.protocol import Death, Process
from tests.support.node import REPOSITORY
from tests.support.processes import alive, marked, poll, stop

#: Every host that the test has started.
HOSTS: list["Host"] = []


class Host:
    """A host process and one client of it."""

    def __init__(self, run_dir: Path, **settings: str) -> None:
        self.run_dir = run_dir
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "RUN_DIR": str(run_dir), "NODE_ID": "n",
            "PYTHONPATH": str(REPOSITORY), "STOP_GRACE_SECONDS": "1", **settings,
        }  # fmt: skip
        self.command = [sys.executable, "-m", "orchestrator.host.host"]
        HOSTS.append(self)
        self.process = self.start()
        self.deaths: asyncio.Queue[Death] = asyncio.Queue()
        self.client: HostClient

    def start(self) -> "subprocess.Popen[bytes]":
        """Start a host process."""
        with (self.run_dir / "host.log").open("ab") as log:
            return subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log, cwd=self.run_dir)

    async def connect(self) -> "Host":
        """Wait until it answers."""
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(HostUnavailable):
                    self.client = await HostClient.connect(self.run_dir / "host.sock", self._died)
                    try:
                        await self.client.hello()
                        return self
                    except HostUnavailable:
                        await self.client.close()
                assert self.process.poll() is None, self.said()
                await asyncio.sleep(0.02)

    async def _died(self, death: Death) -> None:
        self.deaths.put_nowait(death)

    async def death(self) -> Death:
        """Return the next death that it reports."""
        async with asyncio.timeout(60):
            return await self.deaths.get()

    async def living(self, agent_id: str) -> Process | None:
        """Return one of the host's agents."""
        return next((one for one in (await self.client.hello())[0] if one.agent_id == agent_id), None)

    async def adopted(self, agent_id: str, pid: int | None = None) -> Process:
        """Wait until the host lists an agent (with this pid)."""
        async with asyncio.timeout(60):
            # The host does not push its list: it must be requested.
            while (found := await self.living(agent_id)) is None or pid not in {None, found.pid}:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            return found

    async def restart(self) -> None:
        """Kill it with SIGKILL, and start the next one."""
        self.process.kill()
        self.process.wait()
        await self.client.close()
        self.process = self.start()
        await self.connect()

    def sweep(self) -> None:
        """Kill what is left of it, so that a failed test leaves no processes either."""
        for pid in marked("RUN_DIR", str(self.run_dir)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    async def end(self) -> None:
        """Stop it, and assert that its agents are gone."""
        living, _ = await self.client.hello()
        await self.client.close()
        stop(self.process)
        poll(lambda: not [one for one in living if alive(one.pid)], "every agent is gone with its host")

    def said(self) -> str:
        """Return its own log."""
        return (self.run_dir / "host.log").read_text()

    def record(self, agent_id: str) -> Path:
        """Return the path of an agent's record."""
        return self.run_dir / "agents" / f"{agent_id}.json"

    def log(self, agent_id: str) -> str:
        """Return what an agent has printed."""
        path = self.run_dir / "agents" / f"{agent_id}.log"
        return path.read_text() if path.exists() else ""


#: Replaces agent_runtime/runtime.py: the same contract, without Redis and without LiveKit, whose import takes a second.
_RUNTIME = """
import importlib, os, signal
_module = None
def preload(name):
    global _module
    _module = importlib.import_module(name)
    _module.entrypoint
    getattr(_module, "prewarm", lambda: None)()
def main(agent_id=None):
    if _module is None:
        preload(os.environ["AGENT_MODULE"])
    _module.entrypoint(agent_id or os.environ["AGENT_ID"])
    signal.pause()
if __name__ == "__main__":
    main()
"""
#: Source of an agent's module, which prints the value of `{}`.
GOOD = """
import os, pathlib, signal, sys, time
def entrypoint(agent_id):
    if "stubborn" in agent_id:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print({!r}, flush=True)
"""


def exec_host(run_dir: Path, argv: list[str], **settings: str) -> Host:
    """Start a host that starts this command line as each agent, in place of the agents' runtime, by exec."""
    _write_runtime(run_dir, f"import os\nargv = {argv!r}\nos.execvp(argv[0], argv)\n")
    return Host(run_dir, AGENT_START_METHOD="exec", PYTHONPATH=f"{run_dir}/code:{REPOSITORY}", **settings)


def _write_runtime(run_dir: Path, source: str) -> None:
    package = run_dir / "code" / "agent_runtime"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "runtime.py").write_text(source)


def code_host(folder: Path, code: str = GOOD.format("one"), **settings: str) -> Host:
    """Start a host that forks agents of the module `mine`, which tests rewrite."""
    run_dir = folder / os.urandom(4).hex()
    _write_runtime(run_dir, _RUNTIME)
    (run_dir / "code" / "mine.py").write_text(code)
    # If a file is written twice in a second, Python would use the first version's bytecode for the second.
    return Host(
        run_dir, AGENT_MODULE="mine", PYTHONPATH=f"{run_dir}/code:{REPOSITORY}", PYTHONDONTWRITEBYTECODE="1", **settings
    )
