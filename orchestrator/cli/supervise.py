"""Runs supervisord in this process, and adds what it leaves out.

A program that cannot be kept running ends the node with an error, a second signal cuts the drain short, and what does
not fit into the platform's kill window is said at the start. Takes supervisord's own options.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
from supervisor import events, supervisord
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.states import ProcessStates, SupervisorStates

from orchestrator import kill_window, sizing
from orchestrator.cli.log_stream import LogStream
from orchestrator.cli.output import FAILED, errors, fail, say_error, styled
from orchestrator.errors import Preflight
from orchestrator.node.memory import limit_bytes
from orchestrator.settings import Settings

DRAIN = "drain"
#: The agent host. Stopped on its own, it leaves its agents; with the node they go.
HOST = "host"

#: Bytes of a log file, and one older of it, while the logs are on standard output too: RUN_DIR may be memory.
_SMALL_LOG = 262_144
_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
_PR_SET_PDEATHSIG = 1
#: Of a log's end: enough for its last line.
_TAIL = 8192
_LINE = 500


class Options(ServerOptions):  # type: ignore[misc]
    """supervisord's options, and its way to the operating system."""

    def fork(self) -> int:
        """Fork so that a child can be stopped from its first moment.

        Until it has become its program it would take the signal with a copy of our handlers, and nobody would know.
        """
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        pid: int = -1
        try:
            pid = super().fork()
        finally:
            if pid == 0:
                for number in _STOP_SIGNALS:
                    signal.signal(number, signal.SIG_DFL)
                if sys.platform == "linux":
                    # Killed, this process stops nobody any more: its programs are told by the kernel, and stop.
                    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return pid


class Supervisor(supervisord.Supervisor):  # type: ignore[misc]
    """supervisord's main loop. `failed` tells whether a program's failure has ended it."""

    failed = False
    #: Where the programs' output is copied to, if anywhere.
    stream: LogStream | None = None

    def runforever(self) -> None:
        """Run until everything is stopped; always ends with an exception."""
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
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
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
        if self.stopping and number in _STOP_SIGNALS:
            self._skip_drain()
        self.options.signal_receiver.receive(number, None)
        super().handle_signal()

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

    def _on_fatal(self, event: Any) -> None:
        if self.options.mood != SupervisorStates.RUNNING:
            return  # it waited for its next try when the node was stopped
        self.failed = True
        self.options.mood = SupervisorStates.SHUTDOWN
        name, log = event.process.config.name, event.process.config.stdout_logfile
        with contextlib.suppress(OSError):  # nobody reads any more; it stops all the same
            say_error(f"{name} does not start: {_last_words(event.process)} (its log: {log}). The node stops.")


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
    """Run supervisord. Exits with 1 when a program could not be kept running."""
    first = True
    while True:
        options = Options()
        options.realize(doc=supervisord.__doc__)
        options.first, options.test = first, False
        settings = _settings()
        if first:
            _warn(settings, options)
        supervisor = Supervisor(options)
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
        if "orchestrator.cli.announce" in _command(process):
            continue  # it is going, and says so
        with contextlib.suppress(psutil.Error):
            process.kill()


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def _on_output(event: Any) -> None:
    if event.process.config.name == DRAIN:
        with contextlib.suppress(OSError):
            sys.stderr.write(event.data.decode(errors="replace"))
            sys.stderr.flush()


def _last_words(process: Any) -> str:
    """Return why a program does not start: what supervisord says when it could not run it, else its last line."""
    if process.spawnerr and not process.spawnerr.startswith("Exited"):
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
