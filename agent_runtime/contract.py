"""Loads an agent, by the path of its file or by its module's name, and checks it now, not in the first call."""

import asyncio
import functools
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from agent_runtime.entrypoint import EntrypointKind
from agent_runtime.livekit import discovery
from agent_runtime.room_kind import RoomKind
from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from livekit.agents import AgentServer

_PROJECT = Path(__file__).resolve().parent.parent


def load(name: str) -> RoomKind:
    """Import an agent, find out how it is run, and run its `prewarm()`, which may be a coroutine.

    Args:
        name: a file's path, or a module's name. A relative path is one of the working directory, or else of the folder
            that holds this project.

    Raises:
        OrchestratorError: the module is no agent. Anything that the module raises passes through.
    """
    module = _import(name)
    if (server := discovery.find(module)) is not None:
        return _livekit(server)
    if not hasattr(module, "entrypoint"):
        raise OrchestratorError(
            f"{name} is no agent: it has neither entrypoint(ctx) nor LiveKit's AgentServer, and gives none to "
            "cli.run_app(); see docs/agents.md, Bring your own agent"
        )
    check(module.entrypoint, f"{name}.entrypoint")
    if prewarm := getattr(module, "prewarm", None):
        warming = prewarm()
        if inspect.isawaitable(warming):
            asyncio.run(_wait(warming))
    return EntrypointKind(module.entrypoint)


def _livekit(server: "AgentServer") -> RoomKind:
    from agent_runtime.livekit.kind import LiveKitKind  # noqa: PLC0415 - other agents need not have LiveKit Agents

    kind = LiveKitKind(server)
    kind.prewarm()
    return kind


def _import(name: str) -> ModuleType:
    if not name.endswith(".py") and os.sep not in name:
        return importlib.import_module(name)
    path = next((each for each in (Path(name), _PROJECT / name) if each.is_file()), None)
    if path is None:
        raise OrchestratorError(f"there is no file {name}; AGENT_MODULE is a Python file's path or a module's name")
    path = path.resolve()
    # As for a program that Python runs by its path: the file may import its neighbours.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    loaded = sys.modules.get(path.stem)
    # A file may have the name of a module that is loaded already.
    stem = path.stem if loaded is None or getattr(loaded, "__file__", None) == str(path) else f"agent_file_{path.stem}"
    specification = importlib.util.spec_from_file_location(stem, path)
    if specification is None or specification.loader is None:
        raise OrchestratorError(f"{name} is no Python file; AGENT_MODULE is a Python file's path or a module's name")
    module = importlib.util.module_from_spec(specification)
    sys.modules[stem] = module  # pickles and dataclasses look their module up by its name
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[stem]
        raise
    return module


def check(entrypoint: object, name: str) -> None:
    """Raise `OrchestratorError` unless this can be called with the session's context, and awaited."""
    if not callable(entrypoint):
        raise OrchestratorError(f"{name} is no function: write it as async def entrypoint(ctx)")
    if not _is_coroutine(entrypoint):
        raise OrchestratorError(f"{name} is not async: write it as async def entrypoint(ctx)")
    try:
        inspect.signature(entrypoint).bind(None)
    except TypeError as failure:
        raise OrchestratorError(f"{name} must take one argument, the session's context: {failure}") from None
    except ValueError:
        pass  # a native callable has no signature


def _is_coroutine(function: Callable[..., object]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(inspect.unwrap(function)):
        return True
    return inspect.iscoroutinefunction(getattr(type(function), "__call__", None))  # noqa: B004 - which kind it is


async def _wait(warming: Awaitable[object]) -> None:
    await warming
