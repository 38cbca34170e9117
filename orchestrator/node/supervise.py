"""Runs supervisord in this process, and adds what it leaves out.

A program that cannot run from the first moment on ends the node with an error. One that has run is started again
without end, at most a few seconds later: what it needs may be away, and the calls go on meanwhile. A second signal cuts
the drain short, and what does not fit into the platform's kill window is said at the start. Takes supervisord's own
options.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from supervisor import events, supervisord
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import decode_wait_status
from supervisor.states import ProcessStates, SupervisorStates

from orchestrator.errors import CANNOT_RUN, Preflight
from orchestrator.machine.memory import limit_bytes
from orchestrator.node import full_disk, programs
from orchestrator.node.configuration import Configuration
from orchestrator.node.log_stream import LogStream
from orchestrator.node.output import FAILED, errors, fail, print_error, styled
from orchestrator.node.terminal import Patient, hangup_stops
from orchestrator.operations import kill_window, reach, restarts, sizing
from orchestrator.settings import Settings

DRAIN = "drain"
#: The agent host. Stopped on its own, it leaves its agents; with the node they go.
HOST = "host"

#: Bytes of a log file, and one older of it, while the logs are on standard output too: RUN_DIR may be memory.
_SMALL_LOG = 262_144
#: Longest pause before a program that has run is started again, in seconds.
LONGEST_PAUSE = 5
_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
#: What a program hears from its first moment on: the host is stopped by a SIGHUP.
_HELD_SIGNALS = _STOP_SIGNALS | {signal.SIGHUP}
_PR_SET_PDEATHSIG = 1
#: Of a log's end: enough for its last line.
_TAIL = 8192
_LINE = 500


class Options(Configuration):
    """supervisord's options, and its way to the operating system."""

    #: How the program ended that was reaped last: supervisord forgets it when that was early.
    last_status = 0
    #: What each program has in its environment beside this process's own.
    secrets: Mapping[str, Mapping[str, str]] = {}

    def processes_from_section(self, parser: Any, section: str, group_name: str, klass: Any = None) -> Any:
        """Return a section's programs, each with its own secrets."""
        found = super().processes_from_section(parser, section, group_name, klass)
        for program in found:
            program.environment = {**program.environment, **self.secrets.get(program.name, {})}
        return found

    def waitpid(self) -> tuple[int | None, int | None]:
        """Reap one child, if any has ended."""
        pid, status = super().waitpid()
        self.last_status = status or 0
        return pid, status

    def fork(self) -> int:
        """Fork so that a child can be stopped from its first moment.

        Until it has become its program it would take the signal with a copy of our handlers, and nobody would know.
        """
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_SIGNALS)
        pid: int = -1
        try:
            pid = super().fork()
        finally:
            if pid == 0:
                for number in (*_HELD_SIGNALS, signal.SIGTTOU):
                    signal.signal(number, signal.SIG_DFL)
                if sys.platform == "linux":
                    # Killed, this process stops nobody any more: its programs are told by the kernel, and stop.
                    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return pid


class Supervisor(supervisord.Supervisor):  # type: ignore[misc]
    """supervisord's main loop. `failed` tells whether a program's failure has ended it."""

    failed = False
    #: What is kept of the programs that end.
    ends: restarts.Ends
    #: A SIGHUP says that the terminal was closed, which stops the node. It never means a reload, as to supervisord.
    hangup_stops = False
    _hung_up = False
    #: Where the programs' output is copied to, if anywhere.
    stream: LogStream | None = None

    def runforever(self) -> None:
        """Run until everything is stopped; always ends with an exception."""
        self._up: set[str] = set()  # have stayed up for their startsecs
        self._proven: set[str] = set()  # and have ended since, for a cause that came later
        events.subscribe(events.ProcessStateRunningEvent, lambda event: self._up.add(event.process.config.name))
        events.subscribe(events.ProcessStateExitedEvent, self._on_exit)
        events.subscribe(events.ProcessStateBackoffEvent, self._on_backoff)
        events.subscribe(events.ProcessStateFatalEvent, self._on_fatal)
        events.subscribe(events.ProcessLogEvent, self.stream.take if self.stream else _on_output)
        events.subscribe(events.SupervisorStoppingEvent, self._on_stopping)
        sockets = self.options.get_socket_map()
        wake, woken = socket.socketpair()
        wake.setblocking(False)
        woken.setblocking(False)
        sockets[woken.fileno()] = _Woken(woken)
        # Its poll() goes on after a signal: without this, each stop and each death costs up to a second more.
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        # `orchestrator up` has held them back until there is somebody to hear them.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_SIGNALS)
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
        """Handle one signal that has come: the second one that asks to stop does not wait for calls any more."""
        number = self.options.get_signal()
        if number is None:
            return
        if number == signal.SIGHUP:
            if not self._hang_up():
                return
            number = signal.SIGTERM
        elif self._hung_up and number in _STOP_SIGNALS:
            self._hung_up = False
        elif self.stopping and number in _STOP_SIGNALS:
            self._skip_drain()
        self.options.signal_receiver.receive(number, None)
        super().handle_signal()

    def _hang_up(self) -> bool:
        """Return whether this SIGHUP stops the node.

        A terminal that is closed sends several, and a logout a SIGTERM after them: neither cuts the drain short.
        """
        told = self.options.mood == SupervisorStates.SHUTDOWN or self._hung_up
        if told or not self.hangup_stops:
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
        """A program has ended by itself that had stayed up."""
        if self._ended(event.process):
            self._proven.add(event.process.config.name)

    def _on_backoff(self, event: Any) -> None:
        """A program has ended early, or could not be started at all."""
        process = event.process
        if self._ended(process) and process.config.name in self._up:
            # Never more than its startretries: it is not given up.
            process.backoff = min(process.backoff, LONGEST_PAUSE, process.config.startretries)
            process.delay = min(process.delay, time.time() + LONGEST_PAUSE)

    def _ended(self, process: Any) -> bool:
        """Keep that a program has ended; False when the node ends for it: it says that it can never run."""
        self.ends.note(process.config.name, _last_words(process))
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
            return  # it waited for its next try when the node was stopped
        self.failed = True
        self.options.mood = SupervisorStates.SHUTDOWN
        name, log = process.config.name, process.config.stdout_logfile
        print_error(f"{name} does not start: {_last_words(process)} (its log: {log}). The node stops.")


class _Woken:
    """The end of the wake-up pipe that the main loop polls. One byte a turn, as it handles one signal a turn."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        self._end.recv(1)

    def handle_error(self) -> None:
        """Spurious: the next signal wakes it again."""


def main() -> None:
    """Run supervisord. Exits with 1 when a program could not run."""
    full_disk.install()
    Options.secrets = programs.received()
    # What this process says on a terminal must neither hold it nor end it, nor stop it (`stty tostop`).
    stops = hangup_stops()
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    sys.stdout, sys.stderr = Patient(sys.stdout), Patient(sys.stderr)
    first = True
    while True:
        options = Options()
        options.realize(doc=supervisord.__doc__)
        options.first, options.test = first, False
        settings = _settings()
        if first:
            _warn(settings, options)
        supervisor = Supervisor(options)
        supervisor.ends = restarts.Ends(settings.run_dir)
        supervisor.hangup_stops = stops
        if settings.log_to == "stdout":
            supervisor.stream = LogStream(sys.stdout.fileno(), named=settings.log_format == "text")
            _log_to_stdout(options)
        with contextlib.suppress(asyncore.ExitNow):
            supervisor.main()
        options.close_httpservers()
        options.close_logger()
        if options.mood != SupervisorStates.RESTARTING:
            _kill_orphans()
            sys.exit(FAILED if supervisor.failed else 0)
        first = False


def _settings() -> Settings:
    try:
        return Settings.load()
    except Preflight as failure:
        fail(failure)


def _log_to_stdout(options: Options) -> None:
    """Have supervisord tell of every program's output, and keep little of it in files: for `_last_words`."""
    for group in options.process_group_configs:
        for program in group.process_configs:
            program.stdout_events_enabled = True
            program.stdout_logfile_maxbytes = _SMALL_LOG


def _warn(settings: Settings, options: Options) -> None:
    waits = {
        program.name: program.stopwaitsecs
        for group in options.process_group_configs
        for program in group.process_configs
        if program.autostart
    }
    drain = waits.pop(DRAIN, None)
    memory = limit_bytes()
    found = [
        *reach.troubles(settings, os.environ),
        kill_window.warning(settings, os.environ, sum(waits.values())),
        sizing.warning(settings, memory),
        sizing.calls_warning(settings, memory),
    ]
    if drain is not None:
        found.append(kill_window.drain_warning(settings, drain))
    for line in filter(None, found):
        errors.print(styled((f"! {line}", "yellow")))


def _kill_orphans() -> None:
    """Kill what the programs have left to this process, which reaps orphans: with the node everything of it goes."""
    for process in psutil.Process().children(recursive=True):
        if "orchestrator.node.announce" in _command(process):
            continue  # it is going, and says so
        with contextlib.suppress(psutil.Error):
            process.kill()


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def _on_output(event: Any) -> None:
    if event.process.config.name == DRAIN:
        sys.stderr.write(event.data.decode(errors="replace"))


def _last_words(process: Any) -> str:
    """Return why a program does not start: what supervisord says when it could not run it, else its last line."""
    if process.spawnerr and not process.spawnerr.startswith(("Exited", "Bad exit")):
        return str(process.spawnerr)
    path = Path(process.config.stdout_logfile or os.devnull)
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        for line in reversed(file.read(_TAIL).decode(errors="replace").splitlines()):
            if line.strip():
                return line.strip()[:_LINE]
    return "no output"


if __name__ == "__main__":
    main()
