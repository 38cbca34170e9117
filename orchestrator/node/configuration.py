"""supervisord's options, with values from the environment taken literally and with secrets per program.

supervisord inserts values as they are: a space splits a path, a quote opens a string, and after a `%` in the name of a
log file it inserts the whole environment, secrets included, which its error message then shows.
"""

import ctypes
import functools
import re
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from supervisor.options import ServerOptions

from orchestrator.errors import Preflight
from orchestrator.node.output import fail

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
#: Signals that are blocked while a program starts. SIGHUP stops the host.
HELD_SIGNALS = STOP_SIGNALS | {signal.SIGHUP}

_PR_SET_PDEATHSIG = 1
_NAME = re.compile(r"%\((ENV_\w+)\)s")
#: How often supervisord expands an option of a program.
_TIMES = {"command": 1, "stdout_logfile": 2, "stderr_logfile": 2}


class Options(ServerOptions):  # type: ignore[misc]
    """supervisord's options. They use only the variables that its file names, and show no value of any."""

    environ_expansions: dict[str, str]
    #: Wait status of the child that was reaped last: supervisord forgets it if the program ended early.
    last_status = 0
    #: Variables of each program, in addition to this process's own environment.
    secrets: Mapping[str, Mapping[str, str]] = {}

    def read_config(self, fp: str) -> Any:
        """Read the file. Ends the process with one line if that fails."""
        path = Path(fp)
        try:
            names = set(_NAME.findall(path.read_text()))
        except (OSError, UnicodeDecodeError) as failure:
            self.usage(f"{path} cannot be read: {failure}")
        missing = sorted(name.removeprefix("ENV_") for name in names - self.environ_expansions.keys())
        if missing:
            self.usage(f"{path.name} needs {', '.join(missing)} in the environment: start the node by: orchestrator up")
        self.environ_expansions = {name: self.environ_expansions[name] for name in names}
        try:
            return super().read_config(fp)
        # guard: supervisord-error
        except ValueError as failure:
            self.usage(f"{path.name} cannot be used{_place(str(failure))}: supervisord does not accept a value in it")

    def processes_from_section(self, parser: Any, section: str, group_name: str, klass: Any = None) -> Any:
        """Return a section's programs, each with its own secrets.

        In a command, a value from the environment is one word or a part of one.
        """
        for option, times in _TIMES.items():
            if parser.has_option(section, option):
                literal = functools.partial(self._literal, option, times)
                parser.set(section, option, _NAME.sub(literal, parser.get(section, option)))
        programs = super().processes_from_section(parser, section, group_name, klass)
        for program in programs:
            program.environment = {**program.environment, **self.secrets.get(program.name, {})}
        return programs

    def _literal(self, option: str, times: int, match: re.Match[str]) -> str:
        value = self.environ_expansions[match[1]]
        # guard: quoted-path
        return (shlex.quote(value) if option == "command" else value).replace("%", "%" * 2**times)

    def usage(self, msg: str) -> NoReturn:
        """Print what is wrong in one line, and exit."""
        fail(Preflight(msg))

    def waitpid(self) -> tuple[int | None, int | None]:
        """Reap one child, if any has ended."""
        pid, status = super().waitpid()
        self.last_status = status or 0
        return pid, status

    def fork(self) -> int:
        """Fork so that a signal stops the child from its first moment.

        Until it has executed its program it has a copy of our handlers, which would swallow the signal.
        """
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
        pid: int = -1
        try:
            pid = super().fork()
        finally:
            if pid == 0:
                for number in (*HELD_SIGNALS, signal.SIGTTOU):
                    # guard: signal-after-fork
                    signal.signal(number, signal.SIG_DFL)
                if sys.platform == "linux":
                    # If this process is killed, it stops no program: the kernel does.
                    # guard: parent-death
                    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return pid


def _place(text: str) -> str:
    """Return where in the file supervisord found an error, without the value."""
    match = re.search(r"for '([\w.:-]+)'|in section '([\w:-]+)'", text)
    return f" ({next(filter(None, match.groups()))})" if match else ""
