"""Checks an agent's module when it is loaded, not in the first call."""

import asyncio
import functools
import importlib
import inspect
from collections.abc import Awaitable, Callable
from types import ModuleType

from agents.context import AgentContext
from orchestrator.errors import OrchestratorError

Entrypoint = Callable[[AgentContext], Awaitable[None]]


def load(name: str) -> ModuleType:
    """Import an agent's module and run its `prewarm()`, which may be a coroutine.

    Raises:
        OrchestratorError: the module is no agent. Anything that the module raises passes through.
    """
    module = importlib.import_module(name)
    if not hasattr(module, "entrypoint"):
        raise OrchestratorError(f"{name} has no entrypoint(ctx); see docs/agents.md, Bring your own agent")
    check(module.entrypoint, f"{name}.entrypoint")
    if prewarm := getattr(module, "prewarm", None):
        warming = prewarm()
        if inspect.isawaitable(warming):
            asyncio.run(_wait(warming))
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
