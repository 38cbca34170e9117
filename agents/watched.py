"""Background tasks of which none ends unnoticed: whatever ends one of them is a failure of the agent.

Failure cases: a task raises anything at all, is cancelled by somebody else, or comes to an end that it must not have.
SystemExit and KeyboardInterrupt, which asyncio lets out of the whole loop, are failures as any other.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

log = logging.getLogger("agent.runtime")


class _AskedToExit(Exception):
    """A task has raised what would end the event loop."""


class Watched:
    """Tasks that are watched until `cancel`. `failed` is called with the cause, once for each that ends."""

    def __init__(self, failed: Callable[[str], None]) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = False

    def start(self, cause: str, work: Coroutine[Any, Any, object], *, ends: bool = False) -> None:
        """Start a task; `cause` stands in front of what has ended it. `ends`: it may come to its end."""
        task = asyncio.create_task(_contained(work))
        self._tasks.add(task)
        task.add_done_callback(partial(self._look, cause, ends))

    def cancel(self) -> None:
        """Cancel what runs; how it ends is nobody's business any more."""
        self._over = True
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait until all have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _look(self, cause: str, ends: bool, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        # guard: watched-task
        if self._over or (failure is None and ends and not task.cancelled()):
            return
        if failure is not None:
            what = describe(failure)
        else:
            what = "CancelledError: it was cancelled" if task.cancelled() else "it came to its end"
        log.error("%s: %s", cause, what, exc_info=failure)
        self._failed(f"{cause}: {what}")


def describe(failure: BaseException) -> str:
    """Return an exception in words; of a group, its first."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return str(failure) if isinstance(failure, _AskedToExit) else f"{type(failure).__name__}: {failure}"


async def _contained(work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except (SystemExit, KeyboardInterrupt) as request:
        raise _AskedToExit(f"{type(request).__name__}: {request}") from request
