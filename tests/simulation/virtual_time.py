"""An event loop with virtual time: it jumps to the next timer when nothing is left to do.

It never waits for a file descriptor, so only the program determines the order of events. It has only the methods
that the simulation uses: asyncio's own loop spends a third of a schedule's time on the rest.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

#: Unix seconds at the beginning of every simulation.
BEGINNING = 1_800_000_000.0


class Stuck(Exception):
    """There are no callbacks and no timers, but the simulation has not ended."""


class _Call(asyncio.TimerHandle):
    """A callback that is due now or later."""

    __slots__ = ()

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None) -> None:
        self._callback, self._args = callback, args
        self._context = copy_context() if context is None else context
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = self._args = None  # type: ignore[assignment] # as asyncio does


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop. Functions for threads are called directly."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._due: deque[_Call] = deque()
        #: Callbacks of the same time run in the order of their creation.
        self._timers: list[tuple[float, int, _Call]] = []
        self._made = 0

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        call = _Call(callback, args, context)
        self._due.append(call)
        return call

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        call = _Call(callback, args, context)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, call))
        return call

    def _run_once(self) -> None:
        """One turn of `run_forever`: run all callbacks that are due now."""
        due, timers = self._due, self._timers
        while timers and timers[0][2]._cancelled:  # type: ignore[attr-defined]
            heapq.heappop(timers)
        if not due:
            if not timers:
                raise Stuck
            self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            due.append(heapq.heappop(timers)[2])
        for _ in range(len(due)):
            call = due.popleft()
            if call._cancelled:  # type: ignore[attr-defined]
                continue
            try:
                call._context.run(call._callback, *call._args)  # type: ignore[attr-defined]
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as failure:
                self.call_exception_handler({"message": "a callback failed", "exception": failure})

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *args: Any) -> Any:
        done = self.create_future()
        try:
            done.set_result(function(*args))
        except Exception as failure:
            done.set_exception(failure)
        return done
