"""Finds LiveKit's AgentServer in an agent's module that was written for LiveKit's own worker.

The order of names is that of LiveKit's command line (`livekit.agents.cli`). A file that gives `WorkerOptions` or a
server to `cli.run_app` only when it is run as a program is run as one, up to that call.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from livekit.agents import AgentServer

#: Names under which LiveKit's command line looks for a server first.
_NAMES = ("app", "server", "agent")


class _Given(BaseException):
    """Ends a program at its `cli.run_app(...)`. A BaseException, so that the program does not catch it."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def find(module: ModuleType) -> "AgentServer | None":
    """Return the server with the module's session function; None if the module was not written for LiveKit's worker.

    Raises:
        OrchestratorError: it has a server without a session function.
    """
    worker = sys.modules.get("livekit.agents.worker")
    if worker is None:  # nothing has imported LiveKit Agents
        return None
    values = [vars(module).get(name) for name in (*_NAMES, *vars(module))]
    servers = [each for each in values if isinstance(each, worker.AgentServer)]
    server = next((each for each in servers if each._entrypoint_fnc), None) or _what_it_runs(module)
    if server is None and servers:
        raise OrchestratorError(
            f"{module.__name__} has an AgentServer without a session function: write one with @server.rtc_session()"
        )
    if server is not None and server._entrypoint_fnc is None:
        raise OrchestratorError(f"{module.__name__} gives cli.run_app a server without a session function")
    return server


def _what_it_runs(module: ModuleType) -> "AgentServer | None":
    path = Path(module.__file__ or "")
    if path.suffix != ".py" or "run_app" not in path.read_text(encoding="utf-8", errors="replace"):
        return None
    from livekit.agents import AgentServer  # noqa: PLC0415 - the module has imported it

    with _recorded():
        try:
            _run_as_program(path)
        except _Given as given:
            value = given.value
            return value if isinstance(value, AgentServer) else AgentServer.from_server_options(value)
    return None


@contextmanager
def _recorded() -> Iterator[None]:
    from livekit.agents import cli  # noqa: PLC0415 - as above

    def record(given: Any, *_: Any, **__: Any) -> None:
        raise _Given(given)

    original: Callable[..., Any] = cli.run_app
    arguments = sys.argv
    cli.run_app = record  # type: ignore[assignment]
    sys.argv = [arguments[0], "start"]
    try:
        yield
    finally:
        cli.run_app, sys.argv = original, arguments


def _run_as_program(path: Path) -> None:
    specification = importlib.util.spec_from_file_location("__main__", path)
    assert specification
    assert specification.loader
    program = importlib.util.module_from_spec(specification)
    # It stays there: what the program defines belongs to the module __main__, as in the program itself.
    before, sys.modules["__main__"] = sys.modules["__main__"], program
    try:
        specification.loader.exec_module(program)
    except _Given:
        raise
    except BaseException:
        sys.modules["__main__"] = before
        raise
