"""Runs supervisord in this process, with the node's rules. Takes supervisord's own options.

A program that cannot run from the first moment on ends the node with an error. A program that has run is always
started again, after at most a few seconds: what it needs may be unavailable, and the calls go on meanwhile. A second
stop signal skips the drain. Limits that do not fit the machine or the platform are printed at the start.
"""

import contextlib
import os
import signal
import sys

import psutil
from supervisor import supervisord
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.states import SupervisorStates

from orchestrator.errors import Preflight
from orchestrator.machine.memory import limit_bytes
from orchestrator.node import full_disk, programs
from orchestrator.node.configuration import Options
from orchestrator.node.log_stream import LogStream
from orchestrator.node.output import FAILED, errors, fail, styled
from orchestrator.node.supervisor import DRAIN, Supervisor
from orchestrator.node.terminal import NonBlockingText, hangup_stops
from orchestrator.operations import kill_window, reach, restarts, sizing
from orchestrator.settings import Settings

#: Size of a log file, and of its one backup, while standard output has the logs too: RUN_DIR may be in memory.
_SMALL_LOG = 262_144


def main() -> None:
    """Run supervisord. Exits with 1 if a program could not run."""
    full_disk.install()
    Options.secrets = programs.received()
    # Output to a terminal must neither block nor end this process, nor stop it (`stty tostop`).
    stops = hangup_stops()
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    # guard: patient-terminal
    sys.stdout, sys.stderr = NonBlockingText(sys.stdout), NonBlockingText(sys.stderr)
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
        # guard: hangup-stops
        supervisor.hangup_stops = stops
        if settings.log_to == "stdout":
            supervisor.stream = LogStream(sys.stdout.fileno(), named=settings.log_format == "text")
            _log_to_stdout(options)
        with contextlib.suppress(asyncore.ExitNow):
            supervisor.main()
        options.close_httpservers()
        options.close_logger()
        if options.mood != SupervisorStates.RESTARTING:
            # guard: kill-orphans
            _kill_orphans()
            sys.exit(FAILED if supervisor.failed else 0)
        first = False


def _settings() -> Settings:
    try:
        return Settings.load()
    except Preflight as failure:
        fail(failure)


def _log_to_stdout(options: Options) -> None:
    """Have supervisord report every program's output, and keep only its end in files, for error messages."""
    for group in options.process_group_configs:
        for program in group.process_configs:
            program.stdout_events_enabled = True
            program.stdout_logfile_maxbytes = _SMALL_LOG


def _warn(settings: Settings, options: Options) -> None:
    stop_seconds = {
        program.name: program.stopwaitsecs
        for group in options.process_group_configs
        for program in group.process_configs
        if program.autostart
    }
    drain_seconds = stop_seconds.pop(DRAIN, None)
    memory = limit_bytes()
    warnings = [
        *reach.troubles(settings, os.environ),
        kill_window.warning(settings, os.environ, sum(stop_seconds.values())),
        sizing.warning(settings, memory),
        sizing.calls_warning(settings, memory),
    ]
    if drain_seconds is not None:
        warnings.append(kill_window.drain_warning(settings, drain_seconds))
    for warning in filter(None, warnings):
        errors.print(styled((f"! {warning}", "yellow")))


def _kill_orphans() -> None:
    """Kill the processes that the programs have left behind. This process adopts orphans and reaps them."""
    for process in psutil.Process().children(recursive=True):
        if "orchestrator.node.announce" in _command(process):
            continue  # it ends by itself after a last line
        with contextlib.suppress(psutil.Error):
            process.kill()


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


if __name__ == "__main__":
    main()
