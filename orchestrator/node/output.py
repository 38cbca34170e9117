"""Output of the command line: tables for people, `--json` for programs, exit codes for scripts."""

import json
import sys
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.errors import HostUnavailable, NotFound, OrchestratorError
from orchestrator.machine.printable import json_safe, one_line

FAILED, UNREACHABLE, NOT_FOUND = 1, 3, 4


class Terminal(Console):
    """A console that prints each string, in tables too, as one line of plain text, its control characters escaped.

    `styled` makes text with a style.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as rich's text, with its control characters escaped."""
        return super().render_str(one_line(text), **options)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return one line of text, made of parts or (part, style)."""
    line = Text(end="\n")
    for part in parts:
        text, style = (part, "") if isinstance(part, str) else part
        line.append(one_line(text), style)
    return line


def list_table(*columns: str) -> Table:
    """Return a table without borders, from which cells can be copied."""
    return Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="bold")


console = Terminal()
#: For lists: ids must stay whole so that they can be copied. A narrow terminal wraps the longer lines.
wide = Terminal(width=max(160, console.width))
errors = Terminal(stderr=True, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def print_json(data: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json_safe(json.dumps(data, indent=2, ensure_ascii=False)) + "\n")


def print_json_line(data: Any) -> None:
    """Print one JSON document on one line, without buffering."""
    sys.stdout.write(json_safe(json.dumps(data, ensure_ascii=False)) + "\n")
    sys.stdout.flush()


def print_error(text: str) -> None:
    """Print one line on standard error."""
    errors.print(styled(("orchestrator:", "bold red"), f" {text}"))


def fail(failure: OrchestratorError) -> NoReturn:
    """Print a failure in one line and exit with the code of its kind."""
    print_error(failure.detail)
    code = UNREACHABLE if isinstance(failure, HostUnavailable) else FAILED
    sys.exit(NOT_FOUND if isinstance(failure, NotFound) else code)
