"""How the command line talks: tables for people, `--json` for programs, exit codes for scripts."""

import json
import sys
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from orchestrator.errors import HostUnavailable, NotFound, OrchestratorError
from orchestrator.text import json_safe, one_line

FAILED, UNREACHABLE, NOT_FOUND = 1, 3, 4


class Terminal(Console):
    """A console on which text is text: each string, in tables too, is one line, has no markup and moves no cursor.

    What is to have a style is `styled`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as rich's text, after what a terminal would obey is written out."""
        return super().render_str(one_line(text), **options)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return one line of a text, of parts or (part, style)."""
    found = Text(end="\n")
    for part in parts:
        text, style = (part, "") if isinstance(part, str) else part
        found.append(one_line(text), style)
    return found


console = Terminal()
#: For lists: ids are there to be copied, so a line may be longer than a narrow terminal, and wraps there.
wide = Terminal(width=max(160, console.width))
errors = Terminal(stderr=True, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(data: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json_safe(json.dumps(data, indent=2, ensure_ascii=False)) + "\n")


def print_json_line(data: Any) -> None:
    """Print one JSON document in one line, at once: more will follow."""
    sys.stdout.write(json_safe(json.dumps(data, ensure_ascii=False)) + "\n")
    sys.stdout.flush()


def say_error(text: str) -> None:
    """Say what went wrong, in one line on standard error."""
    errors.print(styled(("orchestrator:", "bold red"), f" {text}"))


def fail(failure: OrchestratorError) -> NoReturn:
    """Say what went wrong in one line and exit with the code that names its kind."""
    say_error(failure.detail)
    code = UNREACHABLE if isinstance(failure, HostUnavailable) else FAILED
    sys.exit(NOT_FOUND if isinstance(failure, NotFound) else code)
