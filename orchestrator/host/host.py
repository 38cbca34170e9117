"""The agent host: a fork server that owns the agent processes of one node.

It has one thread, no Redis, no Celery and no secret that agents have not. It loads the agent's imports and models
once, freezes them out of the garbage collector, and forks an agent from them in milliseconds; it reaps every child and
tells whoever is connected what lives and what died. It outlives the Celery worker. If it dies itself, its agents go
on: each has written its own record into the state folder, where the next host finds it, and watches it by pidfd.

To load new code it becomes a new process image under its old pid, so that its agents stay its children.

States of an agent here: alive → (TERM → grace → KILL) → dead, unacknowledged → forgotten.
Failure cases: fork or exec fails → the spawn is answered with the error, nothing is left behind; the agent's module
cannot be loaded → agents are started by exec, where each says for itself what is wrong; it starts threads → agents are
started by exec, where it may; a client that hangs → its
connection is dropped when its buffer is full; a record of another boot → dead by definition.
"""

import contextlib
import json
import logging
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from orchestrator import faults
from orchestrator.config.load import load
from orchestrator.config.node import NodeSettings
from orchestrator.errors import CANNOT_RUN, OrchestratorError, Preflight
from orchestrator.host.preload import (
    RUNTIME,
    TRIAL,
    TRIAL_ARGUMENT,
    Deaths,
    Poisoned,
    Threaded,
    Trial,
    bounded,
    preload,
    run_trial,
)
from orchestrator.host.protocol import Death, Process, encode
from orchestrator.host.server import LineServer
from orchestrator.host.spawn import (
    SINGLE_THREADED,
    agent_environment,
    forget_the_rest,
    has_ended,
    process_of,
    reaped,
    start_by_exec,
    start_by_fork,
)
from orchestrator.host.state_dir import AgentFolder
from orchestrator.logs import configure_logging
from orchestrator.machine.process import ProcessId, kill_strays, machine_boot_id

log = logging.getLogger("orchestrator.host")

#: Seconds between looks at log sizes (and at adopted agents where there is no pidfd) while any agent lives; and the
#: same after one of them has written a tenth of what it may have.
LOOK = 0.25
FLOOD_LOOK = 0.02
#: Seconds between looks for agents that recorded themselves when nobody was looking.
SCAN = 2.0
#: What a host tells the image that it becomes: JSON in the environment.
HANDOVER = "AGENT_HOST_HANDOVER"
_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
#: Asks the host alone to go: its agents stay, for the next host.
_LEAVE_SIGNAL = signal.SIGHUP
_REQUESTS = _STOP_SIGNALS | {_LEAVE_SIGNAL}


@dataclass(slots=True)
class Child:
    """One living agent process."""

    process: Process
    own: bool  #: a child of this host, so it can be reaped
    pidfd: int | None = None
    stopped: bool = False
    killed: bool = False
    kill_at: float | None = None  #: monotonic time of SIGKILL
    log_size: int = 0  #: at the last look

    @property
    def identity(self) -> ProcessId:
        return ProcessId(self.process.pid, self.process.start_ticks)


class AgentHost:
    """The fork server. `run` returns after SIGTERM, when every agent is gone; after SIGHUP at once, and they stay."""

    def __init__(self, settings: NodeSettings, handover: Mapping[str, Any] | None = None) -> None:
        self._settings = settings
        self._folder = AgentFolder(settings.agents_dir)
        self._children: dict[str, Child] = {}
        self._deaths: dict[str, Death] = {}
        self._selector = selectors.DefaultSelector()
        self._server = LineServer(settings.host_socket, self._selector, self._do)
        self._stop_requested = self._leave_requested = self._draining = False
        fork = settings.agent_start_method == "fork" or (
            settings.agent_start_method == "auto" and sys.platform == "linux"
        )
        self._preloads = fork and not settings.agent_command
        self._preload_deaths = Deaths(settings.agents_dir, settings.agent_module)
        self._trial: Trial | None = None
        self._reload_due = False
        self._handover = handover or {}
        self._next_look = self._next_scan = 0.0
        self._wake: tuple[socket.socket, ...] = ()
        self._warning = ""
        self._buried_ids: set[str] = set()  # whose strays are still to be looked for
        self._own_environment = dict(os.environ)
        self._environment = agent_environment(settings)
        self._runtime_main: Callable[[str], None] | None = None

    # Life

    def preload(self) -> None:
        """Load the agent, where agents are forked from here. What cannot be forked is started by exec."""
        module = self._settings.agent_module
        if not self._preloads:
            return
        fault = self._handover.get("poison")
        if fault is None and self._preload_deaths.too_many:
            fault = "it has killed the agent host more than once while it was loaded, or hung"
        if fault is not None:
            self._warning = (
                f"{module} cannot be preloaded: {fault}. Agents are started by exec until a reload succeeds."
            )
            log.warning("%s", self._warning)
            return
        # What the module sees is what its agents will see, and what it sets stays set in them.
        os.environ.update(self._environment)
        try:
            with self._preload_deaths.counted(), bounded(self._settings.preload_seconds):
                self._runtime_main = preload(module)
        except (Poisoned, Threaded) as failure:
            log.warning("%s cannot be preloaded", module, exc_info=failure if isinstance(failure, Poisoned) else None)
            # Half a module may have left anything behind in this process: threads, signal handlers, a gigabyte.
            self._become({"poison": failure.detail, "stops": self._handover.get("stops", {})})

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop every agent and return; or until SIGHUP, and leave them."""
        self._folder.tidy()
        self._scan()
        wake, wake_write = self._wake = socket.socketpair()
        for end in self._wake:
            end.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, self._request_stop)
        signal.signal(_LEAVE_SIGNAL, self._request_leave)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _REQUESTS)
        self._selector.register(wake, selectors.EVENT_READ, lambda: wake.recv(4096))
        self._server.open()
        while not (self._leaving or (self._draining and not self._children)):
            for key, _ in self._selector.select(self._timeout()):
                key.data()
            if self._stop_requested and not self._draining:
                self._draining = True
                for child in self._children.values():
                    self._stop(child, self._settings.stop_grace_seconds)
            self._reap()
            self._tick()
            if self._reload_due:
                self._begin_anew()
        if self._trial is not None:
            self._trial_over(*self._end_trial(self._trial))
        self._kill_strays()
        if self._leaving:
            self._record_children()
        self._server.close()

    def _request_stop(self, *_: object) -> None:
        self._stop_requested = True

    def _request_leave(self, *_: object) -> None:
        self._leave_requested = True

    @property
    def _leaving(self) -> bool:
        return self._leave_requested and not self._stop_requested

    def _timeout(self) -> float:
        deadlines = [child.kill_at for child in self._children.values() if child.kill_at is not None]
        if self._trial is not None:
            deadlines.append(self._trial.deadline)
        if self._children or self._trial:
            deadlines.append(self._next_look)
        return max(0.0, min([self._next_scan, *deadlines]) - time.monotonic())

    def _tick(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.kill_at is not None and now >= child.kill_at:
                child.killed, child.kill_at = True, None
                child.identity.signal_group(signal.SIGKILL)
        if self._trial is not None and now >= self._trial.deadline:
            self._trial.late = True
            self._trial_over(*self._end_trial(self._trial))
        if now >= self._next_look:
            self._look(now)
        if now >= self._next_scan:
            self._scan()

    def _look(self, now: float) -> None:
        self._next_look = now + LOOK
        limit = self._settings.agent_log_bytes
        if self._trial is not None:
            self._folder.bound_log(TRIAL, limit)
        for agent_id, child in list(self._children.items()):
            before, child.log_size = child.log_size, self._folder.bound_log(agent_id, limit)
            if abs(child.log_size - before) > limit // 10:
                self._next_look = now + FLOOD_LOOK
            if not child.own and child.pidfd is None and not child.identity.alive and not self._others_leave(child):
                self._buried(child, None, None, None)

    # Agents

    def spawn(self, agent_id: str) -> Process:
        """Start an agent: by fork from here, or by exec of a command line.

        Raises:
            OrchestratorError: it cannot be started; nothing is left behind.
        """
        if self._draining:
            raise OrchestratorError("the agent host is stopping")
        if agent_id not in self._children and self._folder.read(agent_id) is not None:
            self._scan()
        if child := self._children.get(agent_id):
            return child.process
        if agent_id in self._deaths:
            raise OrchestratorError("an agent of this id has already died")
        try:
            if self._runtime_main is not None:
                pid = start_by_fork(self._runtime_main, agent_id, self._folder, self._disown)
            else:
                environment = self._environment | {"AGENT_ID": agent_id}
                command = self._settings.agent_command
                argv = shlex.split(command) if command else [sys.executable, "-m", RUNTIME]
                pid = start_by_exec(argv, agent_id, self._folder, environment)
        except (OSError, ValueError, subprocess.SubprocessError) as failure:
            if not self._other(agent_id):
                self._folder.forget(agent_id)
            raise OrchestratorError(f"cannot start the agent process: {failure}") from None
        faults.hit("host.after_fork")
        child = Child(process_of(agent_id, pid), own=True)
        self._children[agent_id] = child
        return child.process

    def _disown(self) -> None:
        """In a forked agent: close what is this host's. Not `unregister`: parent and child have one selector."""
        self._selector.close()
        self._server.disown()
        for end in self._wake:
            end.close()
        for child in self._children.values():
            if child.pidfd is not None:
                os.close(child.pidfd)

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

    def _others_leave(self, child: Child) -> bool:
        """Whether an agent that was told to stop is gone with its leader alone: a wrapper ends at once, and what it has
        started has the same grace. Its end is looked for again at every look."""
        return child.kill_at is not None and not child.identity.alive and child.identity.leads_others

    def _reap(self) -> None:
        for child in list(self._children.values()):
            if not child.own or not has_ended(child.process.pid) or self._others_leave(child):
                continue
            if (ended := reaped(child.process.pid)) is None:
                continue
            status, peak = ended
            code = os.waitstatus_to_exitcode(status)
            self._buried(child, code if code >= 0 else None, -code if code < 0 else None, peak)
        if self._trial is not None and (ended := reaped(self._trial.pid)) is not None:
            self._trial_over(*ended)

    def _adopted_ended(self, child: Child) -> None:
        if not self._others_leave(child):
            self._buried(child, None, None, None)
        elif child.pidfd is not None:
            self._selector.unregister(child.pidfd)
            os.close(child.pidfd)
            child.pidfd = None

    def _buried(self, child: Child, code: int | None, number: int | None, peak: int | None) -> None:
        process = child.process
        if child.pidfd is not None:
            self._selector.unregister(child.pidfd)
            os.close(child.pidfd)
        del self._children[process.agent_id]
        self._buried_ids.add(process.agent_id)
        if self._other(process.agent_id):
            self._scan()  # this one has given up in favour of one that was there first
            return
        if not child.own and process.boot_id == machine_boot_id():
            child.identity.kill_left_behind()
        death = Death(
            process.agent_id, process.pid, process.start_ticks, process.boot_id, code, number, peak,
            stopped=child.stopped, killed=child.killed,
        )  # fmt: skip
        self._deaths[process.agent_id] = death
        try:
            self._folder.write(death)
        except OSError as failure:
            # Told all the same. A later host finds the older record, of a process that is gone.
            log.warning("how %s ended is not written down: %s", process.agent_id, failure)
        self._server.tell({"event": "died", "death": encode(death)})

    # Those whom this host does not know

    def _scan(self) -> None:
        """Find the agents that an earlier host of this node has left, or that recorded themselves after its end; and
        what the dead have left behind outside their process groups."""
        self._next_scan = time.monotonic() + SCAN
        self._kill_strays()
        for record in list(self._folder.records(self._children.keys() | self._deaths.keys())):
            if isinstance(record, Death):
                self._deaths[record.agent_id] = record
            else:
                self._adopt(record)

    def _kill_strays(self) -> None:
        if self._buried_ids:
            kill_strays(self._buried_ids - self._children.keys())
            self._buried_ids.clear()

    def _adopt(self, process: Process) -> None:
        child = Child(process, own=False)
        self._children[process.agent_id] = child
        if stop := self._handover.get("stops", {}).get(process.agent_id):
            child.stopped, child.killed, child.kill_at = True, stop["killed"], stop["killAt"]
        same_boot = process.boot_id == machine_boot_id()
        if same_boot and child.identity.is_child:
            child.own = True
        elif not same_boot or not child.identity.alive:
            self._buried(child, None, None, None)
            return
        elif hasattr(os, "pidfd_open"):
            try:
                child.pidfd = os.pidfd_open(process.pid)
            except ProcessLookupError:
                self._buried(child, None, None, None)
                return
            self._selector.register(child.pidfd, selectors.EVENT_READ, lambda c=child: self._adopted_ended(c))
        log.info("adopted %s (pid %d)", process.agent_id, process.pid)

    def _other(self, agent_id: str) -> bool:
        """Whether a living process that this host does not know has the record of this agent."""
        record = self._folder.read(agent_id)
        return isinstance(record, Process) and ProcessId(record.pid, record.start_ticks).alive

    # New code

    def reload(self) -> None:
        """Try the agent's module in a process of its own; when that goes well, load it here. Clients are told."""
        if self._draining:
            raise OrchestratorError("the agent host is stopping")
        if self._trial is not None:
            return
        if not self._preloads:
            self._server.tell({"event": "reload", "error": None})
            return
        try:
            self._trial = Trial.start(self._folder, self._own_environment)
        except OSError as failure:
            raise OrchestratorError(f"cannot try the agent's module: {failure}") from None

    def _end_trial(self, trial: Trial) -> tuple[int, int]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(trial.pid, signal.SIGKILL)
        os.waitid(os.P_PID, trial.pid, os.WEXITED | os.WNOWAIT)
        ended = reaped(trial.pid)
        assert ended is not None
        return ended

    def _trial_over(self, status: int, _peak: int) -> None:
        assert self._trial is not None
        error = self._trial.verdict(status, self._folder)
        self._trial = None
        self._server.tell({"event": "reload", "error": error})
        if error is None:
            self._reload_due = True
        else:
            log.error("%s is not reloaded: %s", self._settings.agent_module, error)

    def _begin_anew(self) -> None:
        """Become a new host, with the same agents. Returns only when that was impossible."""
        self._reload_due = False
        # A stop request that comes now waits for the new image. One that has come already stands.
        signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS)
        if not self._stop_requested and not self._leave_requested:
            stops = {
                agent_id: {"killed": child.killed, "killAt": child.kill_at}
                for agent_id, child in self._children.items()
                if child.stopped
            }
            self._record_children()
            self._preload_deaths.forget()
            self._server.close()
            try:
                self._become({"stops": stops})
            except OSError as failure:
                log.error("cannot start anew, the old code goes on: %s", failure)
                self._server.open()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _REQUESTS)

    def _record_children(self) -> None:
        for child in self._children.values():
            if child.own:
                with contextlib.suppress(OSError):  # it may not have come to write it itself
                    self._folder.claim(child.process)

    def _become(self, handover: dict[str, Any]) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        environment = self._own_environment | {HANDOVER: json.dumps(handover)}
        os.execve(sys.executable, sys.orig_argv, environment)

    # What clients ask

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["op"]:
            case "hello":
                return {
                    "agents": [encode(child.process) for child in self._children.values()],
                    "deaths": [encode(death) for death in self._deaths.values()],
                    "warning": self._warning,
                }
            case "spawn":
                return {"process": encode(self.spawn(_safe(request["agentId"])))}
            case "stop":
                return {"stopping": self.stop(request["agentId"], float(request["grace"]))}
            case "reload":
                self.reload()
                return {}
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


def main() -> None:
    """Run the agent host of this node."""
    configure_logging()
    try:
        settings = load(NodeSettings)
        forget_the_rest(settings)
        configure_logging(settings.log_format)
        handover = json.loads(os.environ.pop(HANDOVER, "{}"))
        for name, value in SINGLE_THREADED.items():
            os.environ.setdefault(name, value)
        if sys.argv[1:] == [TRIAL_ARGUMENT]:
            run_trial(settings.agent_module)
        host = AgentHost(settings, handover)
        host.preload()
        host.run()
    except Preflight as failure:
        sys.stderr.write(f"agent host: {failure}\n")
        sys.exit(CANNOT_RUN)


if __name__ == "__main__":
    main()
