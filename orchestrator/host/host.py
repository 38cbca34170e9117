"""The agent host: a fork server that owns the agent processes of one node.

It has one thread, no Redis, no Celery and no secret that agents have not. It loads the agent's imports and models
once, freezes them out of the garbage collector, and forks an agent from them in milliseconds; it reaps every child and
reports living agents and deaths to every client. It outlives the Celery worker. If it dies, its agents keep running:
each has written its own record into the state folder, where the next host finds it, and watches it by pidfd.

To load new code it becomes a new process image under its old pid, so that its agents stay its children.

Failure cases: fork or exec fails → the spawn is answered with the error, nothing is left behind; a client that hangs →
its connection is dropped when its buffer is full. See `children` and `launcher` for theirs.
"""

import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from orchestrator import faults
from orchestrator.config.agent import AgentSettings
from orchestrator.config.load import load
from orchestrator.errors import CANNOT_RUN, OrchestratorError, Preflight
from orchestrator.host.children import Children
from orchestrator.host.launcher import Launcher
from orchestrator.host.preload import TRIAL_ARGUMENT, run_trial
from orchestrator.host.protocol import Death, Process, encode
from orchestrator.host.reload import Reload
from orchestrator.host.server import LineServer
from orchestrator.host.spawn import SINGLE_THREADED, clear_environment
from orchestrator.host.state_dir import AgentFolder
from orchestrator.logs import configure_logging

log = logging.getLogger("orchestrator.host")

#: The state that a host passes to its next image: JSON in the environment.
HANDOVER = "AGENT_HOST_HANDOVER"
_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
#: Stops the host alone: its agents keep running, for the next host.
_LEAVE_SIGNAL = signal.SIGHUP
_REQUESTS = _STOP_SIGNALS | {_LEAVE_SIGNAL}


class AgentHost:
    """The fork server. `run` returns after SIGTERM, when every agent is gone; after SIGHUP at once, and they stay."""

    def __init__(self, settings: AgentSettings, handover: Mapping[str, Any] | None = None) -> None:
        self._settings, self._handover = settings, handover or {}
        self._own_environment = dict(os.environ)
        self._selector = selectors.DefaultSelector()
        self._folder = AgentFolder(settings.agents_dir)
        self._server = LineServer(settings.host_socket, self._selector, self._answer)
        self._children = Children(self._folder, self._selector, self._report, self._handover.get("stops", {}))
        self._launcher = Launcher(settings, self._folder)
        self._reload = Reload(settings, self._folder, self._server.broadcast)
        self._stop_requested = self._leave_requested = self._draining = False
        self._wake: tuple[socket.socket, ...] = ()

    def preload(self) -> None:
        """Load the agent, where agents are forked from here. What cannot be forked is started by exec."""
        if preload_failure := self._launcher.preload(self._handover.get("poison")):
            self._become({"poison": preload_failure, "stops": self._handover.get("stops", {})})

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop every agent and return; or until SIGHUP, and leave them."""
        self._folder.tidy()
        self._children.scan()
        self._catch_signals()
        self._server.open()
        # guard: host-leaves-agents
        while not (self._leaving or (self._draining and not self._children.living)):
            for key, _ in self._selector.select(self._timeout()):
                key.data()
            if self._stop_requested and not self._draining:
                self._draining = True
                for agent_id in self._children.living:
                    self._children.stop(agent_id, self._settings.stop_grace_seconds)
            self._children.reap()
            self._reload.reap()
            self._tick(time.monotonic())
            if self._reload.due:
                self._load_new_code()
        self._reload.cancel()
        self._children.kill_strays()
        if self._leaving:
            self._children.record()
        self._server.close()

    def _catch_signals(self) -> None:
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

    def _request_stop(self, *_: object) -> None:
        self._stop_requested = True

    def _request_leave(self, *_: object) -> None:
        self._leave_requested = True

    @property
    def _leaving(self) -> bool:
        return self._leave_requested and not self._stop_requested

    def _timeout(self) -> float:
        deadlines = [self._children.next_scan, *self._children.deadlines, *self._reload.deadlines]
        if self._children.living or self._reload.deadlines:
            deadlines.append(self._children.next_check)
        return max(0.0, min(deadlines) - time.monotonic())

    def _tick(self, now: float) -> None:
        self._children.kill_overdue(now)
        self._reload.kill_overdue(now)
        if now >= self._children.next_check:
            self._reload.bound_log(self._settings.agent_log_bytes)
            # guard: flooded-log
            self._children.check(now, self._settings.agent_log_bytes)
        # guard: scan-records
        if now >= self._children.next_scan:
            self._children.scan()

    def _report(self, death: Death) -> None:
        self._server.broadcast({"event": "died", "death": encode(death)})

    def spawn(self, agent_id: str) -> Process:
        """Start an agent: by fork from here, or by exec of a command line.

        Raises:
            OrchestratorError: it cannot be started; nothing is left behind.
        """
        if self._draining:
            raise OrchestratorError("the agent host is stopping")
        if agent_id not in self._children.living and self._folder.read(agent_id) is not None:
            self._children.scan()
        if child := self._children.living.get(agent_id):
            return child.process
        if agent_id in self._children.deaths:
            raise OrchestratorError("an agent of this id has already died")
        try:
            pid = self._launcher.start(agent_id, self._disown)
        except OrchestratorError:
            if not self._children.has_another(agent_id):
                self._folder.forget(agent_id)
            raise
        faults.hit("host.after_fork")
        return self._children.started(agent_id, pid)

    def _disown(self) -> None:
        """In a forked agent: close what is this host's. Not `unregister`: parent and child have one selector."""
        self._selector.close()
        self._server.disown()
        for end in self._wake:
            end.close()
        self._children.disown()

    def _load_new_code(self) -> None:
        """Become a new host, with the same agents. Returns only when that was impossible."""
        self._reload.due = False
        # A stop request that comes now waits for the new image. An earlier one is carried out.
        signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS)
        if not self._stop_requested and not self._leave_requested:
            stops = self._children.stops
            self._children.record()
            self._launcher.preload_crashes.forget()
            self._server.close()
            try:
                self._become({"stops": stops})
            except OSError as failure:
                log.error("cannot start the new code, the old code stays: %s", failure)
                self._server.open()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _REQUESTS)

    def _become(self, handover: dict[str, Any]) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        environment = self._own_environment | {HANDOVER: json.dumps(handover)}
        os.execve(sys.executable, sys.orig_argv, environment)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["op"]:
            case "hello":
                return {
                    "agents": [encode(child.process) for child in self._children.living.values()],
                    # guard: death-until-acknowledged
                    "deaths": [encode(death) for death in self._children.deaths.values()],
                    "warning": self._launcher.warning,
                }
            case "spawn":
                return {"process": encode(self.spawn(_safe(request["agentId"])))}
            case "stop":
                return {"stopping": self._children.stop(request["agentId"], float(request["grace"]))}
            case "reload":
                self._begin_reload()
                return {}
            case "ack":
                self._children.acknowledge(request["agentId"])
                return {}
            case unknown:
                raise ValueError(f"no such op: {unknown}")

    def _begin_reload(self) -> None:
        if self._draining:
            raise OrchestratorError("the agent host is stopping")
        if self._launcher.preloads:
            self._reload.begin(self._own_environment)
        else:
            self._server.broadcast({"event": "reload", "error": None})


def _safe(agent_id: str) -> str:
    """Refuse an id that would be a path of its own."""
    if not agent_id or not agent_id.replace("_", "").isalnum():
        raise ValueError(f"bad agent id {agent_id!r}")
    return agent_id


def main() -> None:
    """Run the agent host of this node."""
    configure_logging()
    try:
        settings = load(AgentSettings)
        # guard: agent-environment
        clear_environment(settings)
        configure_logging(settings.log_format)
        handover = json.loads(os.environ.pop(HANDOVER, "{}"))
        for name, value in SINGLE_THREADED.items():
            os.environ.setdefault(name, value)
        if sys.argv[1:] == [TRIAL_ARGUMENT]:
            run_trial(settings.agent)
        host = AgentHost(settings, handover)
        host.preload()
        host.run()
    except Preflight as failure:
        sys.stderr.write(f"agent host: {failure}\n")
        sys.exit(CANNOT_RUN)


if __name__ == "__main__":
    main()
