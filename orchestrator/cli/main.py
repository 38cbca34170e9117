"""Start, inspect and control a node of voice agents."""

import os
import sys
from importlib.metadata import entry_points

import typer

from orchestrator.cli import commands
from orchestrator.errors import OrchestratorError
from orchestrator.node.output import FAILED, fail, print_error
from orchestrator.settings import CHECKED

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, help=__doc__)
commands.register(app)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the node does not answer, 4 no such session.
    """
    os.environ.pop(CHECKED, None)  # set if a program of a node has started this one
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    for plugin in entry_points(group="orchestrator.commands"):
        # Slow: this imports speech models.
        if command in {plugin.name, "--help"}:
            try:
                app.command(plugin.name)(plugin.load())
            except ModuleNotFoundError as missing:
                fix = ".venv/bin/pip install -c constraints.txt -e '.[offline]'"
                print_error(f"{plugin.name} needs {missing.name}: {fix}")
                if command == plugin.name:
                    sys.exit(FAILED)
    try:
        app()
    except OrchestratorError as failure:
        fail(failure)
