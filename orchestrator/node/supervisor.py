"""supervisord's main loop with the node's rules: which failure ends the node, and what each signal means."""

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from supervisor import events, supervisord
from supervisor.options import decode_wait_status
from supervisor.states import ProcessStates, SupervisorStates

from orchestrator.errors import CANNOT_RUN
from orchestrator.node.configuration import HELD_SIGNALS, STOP_SIGNALS
from orchestrator.node.log_stream import LogStream
from orchestrator.node.output import print_error
from orchestrator.operations import restarts

DRAIN = "drain"
#: The agent host. Its agents outlive it if it is stopped alone, and stop with it if the node stops.
HOST = "host"
#: Longest pause before a program that has run is started again, in seconds.
LONGEST_PAUSE = 5
#: Bytes of a log's end that are searched for its last line, and characters of the line that are shown.
_TAIL, _LINE = 8192, 500


class Supervisor(supervisord.Supervisor):  # type: ignore[misc]
    """supervisord's main loop. `failed`: whether a program's failure has ended it."""

    failed = False
    #: Records the programs that end.
    ends: restarts.Ends
    #: A SIGHUP stops the node: the terminal was closed. It never reloads, as it does in supervisord.
    hangup_stops = False
    _hung_up = False
    #: Copies the programs' output, if set.
    stream: LogStream | None = None

    def runforever(self) -> None:
        """Run until every program has stopped. Always ends with an exception."""
        self._up: set[str] = set()  # programs that have stayed up for their startsecs
        self._proven: set[str] = set()  # and have ended since, so that their set-up is not at fault
        events.subscribe(events.ProcessStateRunningEvent, lambda event: self._up.add(event.process.config.name))
        events.subscribe(events.ProcessStateExitedEvent, self._on_exit)
        events.subscribe(events.ProcessStateBackoffEvent, self._on_backoff)
        # guard: given-up
        events.subscribe(events.ProcessStateFatalEvent, self._on_fatal)
        events.subscribe(events.ProcessLogEvent, self.stream.take if self.stream else _on_output)
        # guard: stopping-event
        events.subscribe(events.SupervisorStoppingEvent, self._on_stopping)
        sockets = self.options.get_socket_map()
        wake, woken = socket.socketpair()
        wake.setblocking(False)
        woken.setblocking(False)
        sockets[woken.fileno()] = _WakeUp(woken)
        # supervisord's poll() continues after a signal: without this, each stop and each death costs up to a second.
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        # `orchestrator up` has blocked them until they can be handled.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
        try:
            super().runforever()
        finally:
            if self.stream:
                self.stream.flush()
            signal.set_wakeup_fd(-1)
            del sockets[woken.fileno()]
            wake.close()
            woken.close()

    def handle_signal(self) -> None:
        """Handle one received signal. The second stop signal skips the drain."""
        number = self.options.get_signal()
        if number is None:
            return
        if number == signal.SIGHUP:
            if not self._hang_up():
                return
            number = signal.SIGTERM
        # guard: hangup-while-draining
        elif self._hung_up and number in STOP_SIGNALS:
            self._hung_up = False
        elif self.stopping and number in STOP_SIGNALS:
            # guard: second-signal
            self._skip_drain()
        self.options.signal_receiver.receive(number, None)
        super().handle_signal()

    def _hang_up(self) -> bool:
        """Return whether this SIGHUP stops the node.

        Closing a terminal sends several, and a logout sends a SIGTERM after them: neither skips the drain.
        """
        stopping = self.options.mood == SupervisorStates.SHUTDOWN or self._hung_up
        # guard: hangup-without-terminal
        if stopping or not self.hangup_stops:
            self.options.logger.info("ignored SIGHUP: the node has no terminal, or is stopping")
            return False
        self.options.logger.warn("the terminal was closed (SIGHUP): the node stops")
        self._hung_up = True
        return True

    def _skip_drain(self) -> None:
        for group in self.process_groups.values():
            for process in group.processes.values():
                if process.config.name == DRAIN and process.get_state() == ProcessStates.STOPPING:
                    process.kill(signal.SIGKILL)

    def _on_stopping(self, _event: Any) -> None:
        for group in self.process_groups.values():
            for process in group.processes.values():
                if process.config.name == HOST:
                    process.config.stopsignal = signal.SIGTERM

    def _on_exit(self, event: Any) -> None:
        """A program that had stayed up has ended by itself."""
        if self._record_end(event.process):
            self._proven.add(event.process.config.name)

    def _on_backoff(self, event: Any) -> None:
        """A program has ended early, or could not be started."""
        process = event.process
        if self._record_end(process) and process.config.name in self._up:
            # With more attempts than its startretries supervisord would give it up.
            # guard: restart-forever
            process.backoff = min(process.backoff, LONGEST_PAUSE, process.config.startretries)
            process.delay = min(process.delay, time.time() + LONGEST_PAUSE)

    def _record_end(self, process: Any) -> bool:
        """Record that a program has ended. Returns False if it can never run, which ends the node."""
        self.ends.note(process.config.name, _last_output(process))
        never_spawned = bool(process.spawnerr) and not process.spawnerr.startswith(("Exited", "Bad exit"))
        code, _ = decode_wait_status(self.options.last_status)
        if code == CANNOT_RUN and not never_spawned and process.config.name not in self._proven:
            self._give_up(process)
            return False
        return True

    def _on_fatal(self, event: Any) -> None:
        self._give_up(event.process)

    def _give_up(self, process: Any) -> None:
        if self.options.mood != SupervisorStates.RUNNING:
            return  # the node was stopped while the program waited for its next attempt
        self.failed = True
        self.options.mood = SupervisorStates.SHUTDOWN
        name, log = process.config.name, process.config.stdout_logfile
        print_error(f"{name} does not start: {_last_output(process)} (its log: {log}). The node stops.")


class _WakeUp:
    """The end of the wake-up pipe that the main loop polls. Reads one byte, as the loop handles one signal a turn."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        self._end.recv(1)

    def handle_error(self) -> None:
        """A spurious event: the next signal wakes the loop again."""


def _on_output(event: Any) -> None:
    if event.process.config.name == DRAIN:
        sys.stderr.write(event.data.decode(errors="replace"))


def _last_output(process: Any) -> str:
    """Return why a program did not start: supervisord's error if it could not run it, else its last line."""
    if process.spawnerr and not process.spawnerr.startswith(("Exited", "Bad exit")):
        return str(process.spawnerr)
    path = Path(process.config.stdout_logfile or os.devnull)
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        for line in reversed(file.read(_TAIL).decode(errors="replace").splitlines()):
            if line.strip():
                return line.strip()[:_LINE]
    return "no output"
