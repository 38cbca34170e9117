"""How the command line talks: tables for people, `--json` for programs, exit codes for scripts."""

import json
import sys
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from orchestrator.errors import HostUnavailable, NotFound, OrchestratorError

FAILED, UNREACHABLE, NOT_FOUND = 1, 3, 4

console = Console(highlight=False)
#: For lists: ids are there to be copied, so a line may be longer than a narrow terminal, and wraps there.
wide = Console(highlight=False, width=max(160, console.width))
errors = Console(stderr=True, highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(data: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def say_error(text: str) -> None:
    """Say what went wrong, in one line on standard error."""
    errors.print(f"[bold red]orchestrator:[/] {escape(text)}")


def fail(failure: OrchestratorError) -> NoReturn:
    """Say what went wrong in one line and exit with the code that names its kind."""
    say_error(failure.detail)
    code = UNREACHABLE if isinstance(failure, HostUnavailable) else FAILED
    sys.exit(NOT_FOUND if isinstance(failure, NotFound) else code)
