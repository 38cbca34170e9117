"""Background tasks whose end is a failure of the agent.

Failure cases: a task raises anything, is cancelled from outside, or returns although it must not. SystemExit and
KeyboardInterrupt, which asyncio would let end the event loop, are failures like any other.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from orchestrator.machine.redaction import Redaction
from orchestrator.reasons import Reason

log = logging.getLogger("agent.runtime")


class _ExitRequest(Exception):
    """A task has raised an exception that would end the event loop."""


class WatchedTasks:
    """Tasks that are watched until `cancel`. `failed` is called with the cause of each end."""

    def __init__(self, failed: Callable[[Reason], None]) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = False

    def start(self, cause: Reason, work: Coroutine[Any, Any, object], *, ends: bool = False) -> None:
        """Start a task. `cause`: the reason when it fails, to which the failure is added; `ends`: it may return."""
        task = asyncio.create_task(_contained(work))
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_end, cause, ends))

    def cancel(self) -> None:
        """Cancel all tasks, and watch them no longer."""
        self._over = True
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait until all tasks have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_end(self, cause: Reason, ends: bool, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        # guard: watched-task
        if self._over or (failure is None and ends and not task.cancelled()):
            return
        if failure is not None:
            what = describe(failure)
        else:
            what = "CancelledError: it was cancelled" if task.cancelled() else "it returned"
        before = cause.params.get("detail")
        reason = cause.of(detail=f"{before}: {what}" if before else what)
        log.error("%s", reason.text, exc_info=failure)
        self._failed(reason)


def describe(failure: BaseException) -> str:
    """Return an exception as text; for a group, its first one."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    text = str(failure) if isinstance(failure, _ExitRequest) else f"{type(failure).__name__}: {failure}"
    # It is stored, shown, and sent to the operator's webhook.
    # guard: secrets-in-reasons
    return Redaction()(text)


async def _contained(work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except (SystemExit, KeyboardInterrupt) as request:
        raise _ExitRequest(f"{type(request).__name__}: {request}") from request
