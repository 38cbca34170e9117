"""What runs beside a Celery worker from its start to its stop: services, and work that they begin and do not wait for.

A service that fails goes on: its next round makes up for the one that failed.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from orchestrator.clock import Clock
from orchestrator.errors import HostUnavailable, OrchestratorError, StoreUnavailable

log = logging.getLogger("orchestrator.worker.service")


class Service(Protocol):
    """Something that is started once and stopped once."""

    def start(self) -> None:
        """Begin. It returns at once."""
        ...

    async def stop(self) -> None:
        """End, and return when it has ended."""
        ...


class LoopService(ABC):
    """A service that is one task."""

    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin the task."""
        self._task = asyncio.create_task(self.run(), name=type(self).__name__)

    async def stop(self) -> None:
        """Cancel the task and wait for its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @abstractmethod
    async def run(self) -> None:
        """Run until cancelled."""


class Periodic(LoopService):
    """Does one piece of work again and again, with a pause before each."""

    def __init__(self, name: str, seconds: float, work: Callable[[], Awaitable[object]], clock: Clock) -> None:
        self.name, self.seconds = name, seconds
        self._work, self._clock = work, clock

    async def run(self) -> None:
        """Do the work after each pause until cancelled."""
        while True:
            await self._clock.sleep(self.seconds)
            try:
                await self._work()
            except StoreUnavailable:
                pass  # the api reports it
            except HostUnavailable as failure:
                log.info("%s waits for the agent host: %s", self.name, failure.detail)
            except Exception:
                log.exception("%s failed and will be tried again", self.name)


class Background:
    """Work that is begun and not waited for. A failure is logged; the next periodic round makes up for it."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[object], None] = {}  # in order

    def start(self) -> None:
        """Begin: nothing runs yet."""

    async def stop(self) -> None:
        """Cancel what still runs and wait for its end."""
        unfinished = list(self._tasks)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    def begin(self, work: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine beside what runs now."""
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled() or (failure := task.exception()) is None:
            return
        if isinstance(failure, OrchestratorError):
            log.warning("background work failed: %s", failure.detail)
        else:
            log.error("background work failed: %r", failure)
