"""An event loop whose time is virtual: it jumps to the next timer when nothing is left to do.

Nothing in it waits for a file descriptor, so the order of everything that happens follows from the program alone.
"""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

#: Unix seconds at the beginning of every simulation.
BEGINNING = 1_800_000_000.0


class Stuck(Exception):
    """Nothing is left to do and nothing is waited for, and the simulation is not over."""


class _Jump(selectors.SelectSelector):
    """Lets the loop's time jump by the time that the loop wants to wait."""

    def __init__(self, loop: "VirtualLoop") -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck
        self._loop.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. What others run in threads runs at once."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *args: Any) -> Any:
        done = self.create_future()
        try:
            done.set_result(function(*args))
        except Exception as failure:
            done.set_exception(failure)
        return done
