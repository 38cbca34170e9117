"""How supervisord reads its file here: what comes from the environment means itself, whatever characters it has.

supervisord inserts values as they are: a space cuts a path in two, a quote opens a string, and after a `%` in the name
of a log file it inserts all of the environment, secrets included, which the text of its error then shows.
"""

import functools
import re
import shlex
from pathlib import Path
from typing import Any, NoReturn

from supervisor.options import ServerOptions

from orchestrator.errors import Preflight
from orchestrator.node.output import fail

_NAME = re.compile(r"%\((ENV_\w+)\)s")
#: How often supervisord expands an option of a program.
_TIMES = {"command": 1, "stdout_logfile": 2, "stderr_logfile": 2}


class Configuration(ServerOptions):  # type: ignore[misc]
    """supervisord's options. Knows of the environment only what its file names, and shows no value of it."""

    environ_expansions: dict[str, str]

    def read_config(self, fp: str) -> Any:
        """Read the file. Ends the process with one line when that cannot be done."""
        path = Path(fp)
        try:
            asked = set(_NAME.findall(path.read_text()))
        except (OSError, UnicodeDecodeError) as failure:
            self.usage(f"{path} cannot be read: {failure}")
        missing = sorted(name.removeprefix("ENV_") for name in asked - self.environ_expansions.keys())
        if missing:
            self.usage(f"{path.name} needs {', '.join(missing)} in the environment: start the node by: orchestrator up")
        self.environ_expansions = {name: self.environ_expansions[name] for name in asked}
        try:
            return super().read_config(fp)
        except ValueError as failure:
            self.usage(f"{path.name} cannot be used{_place(str(failure))}: a value of it is not what supervisord takes")

    def processes_from_section(self, parser: Any, section: str, group_name: str, klass: Any = None) -> Any:
        """Return a section's programs. In a command, a value from the environment is one word or a part of one."""
        for option, times in _TIMES.items():
            if parser.has_option(section, option):
                literal = functools.partial(self._literal, option, times)
                parser.set(section, option, _NAME.sub(literal, parser.get(section, option)))
        return super().processes_from_section(parser, section, group_name, klass)

    def _literal(self, option: str, times: int, found: re.Match[str]) -> str:
        value = self.environ_expansions[found[1]]
        return (shlex.quote(value) if option == "command" else value).replace("%", "%" * 2**times)

    def usage(self, msg: str) -> NoReturn:
        """Say in one line what is wrong, and exit."""
        fail(Preflight(msg))


def _place(text: str) -> str:
    """Return where an error of supervisord's is, without its values."""
    found = re.search(r"for '([\w.:-]+)'|in section '([\w:-]+)'", text)
    return f" ({next(filter(None, found.groups()))})" if found else ""
