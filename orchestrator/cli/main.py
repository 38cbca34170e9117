"""The `orchestrator` command: up, status, sessions, explain, logs, stop, pool, nodes, drain, undrain, agents, breaker,
restart, doctor, flower, redis, and plug-ins such as call."""

import os
import sys
from importlib.metadata import entry_points

import typer

from orchestrator.cli import commands
from orchestrator.errors import OrchestratorError
from orchestrator.node.output import FAILED, fail, say_error
from orchestrator.settings import CHECKED

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, help=__doc__)
commands.register(app)


def main() -> None:
    """Run the command line. Exit: 0 done, 1 failed, 2 wrong usage, 3 the node does not answer, 4 no such session."""
    os.environ.pop(CHECKED, None)  # of a node's program that has started this one
    asked = sys.argv[1] if len(sys.argv) > 1 else "--help"
    for plugin in entry_points(group="orchestrator.commands"):
        # Loaded only when asked for: speech models are heavy.
        if asked in {plugin.name, "--help"}:
            try:
                app.command(plugin.name)(plugin.load())
            except ModuleNotFoundError as missing:
                mend = ".venv/bin/pip install -c constraints.txt -e '.[offline]'"
                say_error(f"{plugin.name} needs {missing.name}: {mend}")
                if asked == plugin.name:
                    sys.exit(FAILED)
    try:
        app()
    except OrchestratorError as failure:
        fail(failure)
