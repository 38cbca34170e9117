"""The agent host: a fork server that owns the agent processes of one node.

It has one thread, no Redis, no Celery and no secret. It loads the agent's imports and models once, freezes them
out of the garbage collector, and forks an agent from them in milliseconds; it reaps every child and tells whoever
is connected what lives and what died. It outlives the Celery worker. If it dies itself, its agents go on: the next
host finds them by the records in its state folder and watches them by pidfd.

States of an agent here: alive → (TERM → grace → KILL) → dead, unacknowledged → forgotten.
Failure cases: fork or exec fails → the spawn is answered with the error, nothing is left behind; a client that
hangs → its connection is dropped when its buffer is full; a record of another boot → dead by definition.

Preload and gc.freeze before fork follow livekit-agents' forkserver (`ipc/_preload_freeze.py`).
"""

import contextlib
import gc
import importlib
import logging
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.errors import OrchestratorError, Preflight
from orchestrator.node.folder import AgentFolder
from orchestrator.node.process import ProcessId, machine_boot_id
from orchestrator.node.protocol import Death, Process, encode
from orchestrator.node.server import LineServer
from orchestrator.settings import NodeSettings, load

log = logging.getLogger("orchestrator.host")

#: The module that runs an agent: it has `preload(module)` and `main(agent_id)`.
RUNTIME = "agents.runtime"
#: What an agent may see of the host's environment, besides AGENT_ENV: the settings that hold no secret, and these.
AGENT_ENVIRONMENT = frozenset(name.upper() for name in NodeSettings.model_fields) | frozenset(
    "PATH HOME USER LANG LC_ALL TZ TMPDIR PYTHONPATH PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE VIRTUAL_ENV "
    "SSL_CERT_FILE SSL_CERT_DIR HTTP_PROXY HTTPS_PROXY NO_PROXY OPENBLAS_CORETYPE OPENBLAS_L2_SIZE "
    "OPENAI_API_KEY OPENAI_BASE_URL DEEPGRAM_API_KEY CARTESIA_API_KEY ELEVEN_API_KEY ANTHROPIC_API_KEY "
    "GOOGLE_API_KEY".split()
)
#: Libraries that would start threads in the host, which must have one when it forks.
SINGLE_THREADED = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "MOONSHINE_ORT_SINGLE_THREAD": "1",
}
#: Seconds between looks at log sizes, and at adopted agents where there is no pidfd.
TICK = 1.0


@dataclass(slots=True)
class Child:
    """One living agent process."""

    process: Process
    own: bool  #: a child of this host, so it can be reaped
    pidfd: int | None = None
    stopped: bool = False
    killed: bool = False
    kill_at: float | None = None  #: monotonic time of SIGKILL

    @property
    def identity(self) -> ProcessId:
        return ProcessId(self.process.pid, self.process.start_ticks)


class AgentHost:
    """The fork server. `run` returns after SIGTERM, when every agent is gone."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._folder = AgentFolder(settings.agents_dir)
        self._children: dict[str, Child] = {}
        self._deaths: dict[str, Death] = {}
        self._selector = selectors.DefaultSelector()
        self._server = LineServer(settings.host_socket, self._selector, self._do)
        self._stop_requested = self._draining = False
        self._fork = settings.agent_start_method == "fork" or (
            settings.agent_start_method == "auto" and sys.platform == "linux"
        )
        self._next_tick = 0.0
        environment = AGENT_ENVIRONMENT | {name.strip() for name in settings.agent_env.split(",") if name.strip()}
        self._environment = {name: value for name, value in os.environ.items() if name in environment}
        # `python my_agent.py` is the python that has the agent's libraries.
        folders = (str(Path(sys.executable).parent), self._environment.get("PATH", os.defpath))
        self._environment["PATH"] = os.pathsep.join(folders)
        self._runtime_main: Callable[[str], None] | None = None

    # Life

    def preload(self) -> None:
        """Import the agent, load its models and freeze them. Only where agents are forked from here."""
        if not self._fork or self._settings.agent_command:
            return
        started = time.monotonic()
        runtime = importlib.import_module(RUNTIME)
        runtime.preload(self._settings.agent_module)
        self._runtime_main = runtime.main
        gc.collect()
        gc.freeze()
        if threading.active_count() != 1 or _threads() != 1:
            raise Preflight(
                f"{self._settings.agent_module} starts {_threads() - 1} thread(s) when it is imported or prewarmed; "
                "a process with threads cannot fork safely. Start them in entrypoint(), or set AGENT_START_METHOD=exec."
            )
        log.info("preloaded %s in %.1f s", self._settings.agent_module, time.monotonic() - started)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then stop every agent and return."""
        self._adopt()
        wake, wake_write = socket.socketpair()
        for end in (wake, wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(wake, selectors.EVENT_READ, lambda: wake.recv(4096))
        self._server.open()
        while not (self._draining and not self._children):
            for key, _ in self._selector.select(self._timeout()):
                key.data()
            if self._stop_requested and not self._draining:
                self._draining = True
                for child in self._children.values():
                    self._stop(child, self._settings.stop_grace_seconds)
            self._reap()
            self._tick()
        self._server.close()

    def _request_stop(self, *_: object) -> None:
        self._stop_requested = True

    def _timeout(self) -> float:
        deadlines = [child.kill_at for child in self._children.values() if child.kill_at is not None]
        return max(0.0, min([self._next_tick, *deadlines]) - time.monotonic())

    def _tick(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.kill_at is not None and now >= child.kill_at:
                child.killed, child.kill_at = True, None
                child.identity.signal_group(signal.SIGKILL)
        if now < self._next_tick:
            return
        self._next_tick = now + TICK
        for agent_id, child in list(self._children.items()):
            self._folder.bound_log(agent_id, self._settings.agent_log_bytes)
            if not child.own and child.pidfd is None and not child.identity.alive:
                self._buried(child, None, None, None)

    # Agents

    def spawn(self, agent_id: str) -> Process:
        """Start an agent: by fork from here, or by exec of a command line.

        Raises:
            OrchestratorError: it cannot be started; nothing is left behind.
        """
        if self._draining:
            raise OrchestratorError("the agent host is stopping")
        if child := self._children.get(agent_id):
            return child.process
        if agent_id in self._deaths:
            raise OrchestratorError("an agent of this id has already died")
        environment = self._environment | SINGLE_THREADED | {"AGENT_ID": agent_id, "NODE_ID": self._settings.node_id}
        try:
            if self._runtime_main is not None:
                pid = self._fork_agent(agent_id, environment)
            else:
                command = self._settings.agent_command
                argv = shlex.split(command) if command else [sys.executable, "-m", RUNTIME]
                pid = self._exec_agent(agent_id, argv, environment)
        except (OSError, ValueError) as failure:
            self._folder.forget(agent_id)
            raise OrchestratorError(f"cannot start the agent process: {failure}") from None
        identity = ProcessId.of(pid)
        # Already dead: the ticks no longer matter, the reaper finds it by its pid.
        process = Process(agent_id, pid, identity.start_ticks if identity else 0, machine_boot_id())
        child = Child(process, own=True)
        self._children[agent_id] = child
        self._folder.write(process)
        return process

    def _fork_agent(self, agent_id: str, environment: dict[str, str]) -> int:
        if _threads() != 1:
            raise OSError(f"the agent host has {_threads()} threads; it forks with one only")
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become_agent(agent_id, environment)
        return pid

    def _become_agent(self, agent_id: str, environment: dict[str, str]) -> NoReturn:
        code = 70  # EX_SOFTWARE: died before its own code ran
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            output = self._folder.open_log(agent_id)
            empty = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((empty, 0), (output, 1), (output, 2)):
                os.dup2(source, target)
            # The selector, the listener and the clients belong to the host.
            os.closerange(3, os.sysconf("SC_OPEN_MAX") if sys.platform != "linux" else _highest_fd() + 1)
            os.environ.clear()
            os.environ.update(environment)
            assert self._runtime_main is not None
            self._runtime_main(agent_id)
            code = 0
        except SystemExit as request:
            code = request.code if isinstance(request.code, int) else 1 if request.code else 0
        except BaseException:
            logging.getLogger("orchestrator.agent").exception("agent crashed")
            code = 1
        finally:
            # Not sys.exit: the host's exit handlers are not the agent's, and native libraries may hang in theirs.
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _exec_agent(self, agent_id: str, argv: list[str], environment: dict[str, str]) -> int:
        output = self._folder.open_log(agent_id)
        try:
            # The Popen object is not kept: children are reaped by pid, here, for forked and exec'd ones alike.
            popen = subprocess.Popen(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        finally:
            os.close(output)
        popen.returncode = 0
        return popen.pid

    def stop(self, agent_id: str, grace: float) -> bool:
        """Send TERM to an agent's process group now and KILL after `grace` seconds; False when it is not here."""
        child = self._children.get(agent_id)
        if child is None:
            return False
        self._stop(child, grace)
        return True

    def _stop(self, child: Child, grace: float) -> None:
        child.stopped = True
        deadline = time.monotonic() + grace
        if child.kill_at is None or deadline < child.kill_at:
            child.kill_at = deadline
        child.identity.signal_group(signal.SIGTERM)

    def _reap(self) -> None:
        for child in list(self._children.values()):
            if not child.own:
                continue
            pid = child.process.pid
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            # Grandchildren that outlived the leader go with it; while it is a zombie its pid is nobody else's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            peak = usage.ru_maxrss if sys.platform == "linux" else usage.ru_maxrss // 1024
            code = os.waitstatus_to_exitcode(status)
            self._buried(child, code if code >= 0 else None, -code if code < 0 else None, peak)

    def _buried(self, child: Child, code: int | None, number: int | None, peak: int | None) -> None:
        process = child.process
        if child.pidfd is not None:
            self._selector.unregister(child.pidfd)
            os.close(child.pidfd)
        del self._children[process.agent_id]
        death = Death(
            process.agent_id, process.pid, process.start_ticks, process.boot_id, code, number, peak,
            stopped=child.stopped, killed=child.killed,
        )  # fmt: skip
        self._deaths[process.agent_id] = death
        self._folder.write(death)
        self._server.tell({"event": "died", "death": encode(death)})

    # Those who lived before

    def _adopt(self) -> None:
        """Find the agents that an earlier host of this node has left."""
        for record in self._folder.records():
            if isinstance(record, Death):
                self._deaths[record.agent_id] = record
                continue
            process = record
            child = Child(process, own=False)
            self._children[process.agent_id] = child
            if process.boot_id != machine_boot_id() or not child.identity.alive:
                self._buried(child, None, None, None)
                continue
            if hasattr(os, "pidfd_open"):
                try:
                    child.pidfd = os.pidfd_open(process.pid)
                except ProcessLookupError:
                    self._buried(child, None, None, None)
                    continue
                self._selector.register(
                    child.pidfd, selectors.EVENT_READ, lambda c=child: self._buried(c, None, None, None)
                )
            log.info("adopted %s (pid %d)", process.agent_id, process.pid)

    # What clients ask

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["op"]:
            case "hello":
                return {
                    "agents": [encode(child.process) for child in self._children.values()],
                    "deaths": [encode(death) for death in self._deaths.values()],
                }
            case "spawn":
                return {"process": encode(self.spawn(_safe(request["agentId"])))}
            case "stop":
                return {"stopping": self.stop(request["agentId"], float(request["grace"]))}
            case "ack":
                if self._deaths.pop(request["agentId"], None):
                    self._folder.forget(request["agentId"])
                return {}
            case unknown:
                raise ValueError(f"no such op: {unknown}")


def _safe(agent_id: str) -> str:
    """Refuse an id that would be a path of its own."""
    if not agent_id or not agent_id.replace("_", "").isalnum():
        raise ValueError(f"bad agent id {agent_id!r}")
    return agent_id


def _threads() -> int:
    """Return how many threads this process has, native ones too."""
    try:
        return len(os.listdir("/proc/self/task"))
    except FileNotFoundError:
        return threading.active_count()


def _highest_fd() -> int:
    return max(int(name) for name in os.listdir("/proc/self/fd"))


def main() -> None:
    """Run the agent host of this node."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name, value in SINGLE_THREADED.items():
        os.environ.setdefault(name, value)
    try:
        host = AgentHost(load(NodeSettings))
        host.preload()
        host.run()
    except Preflight as failure:
        sys.exit(f"agent host: {failure}")


if __name__ == "__main__":
    main()
