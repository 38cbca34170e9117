"""Celery's queues: a task is kept until it is acknowledged, even if the worker that took it dies."""

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.errors import StoreUnavailable
from orchestrator.store.keys import CELERY_QUEUE
from orchestrator.task_queue.app import VISIBILITY_SECONDS
from tests.simulation.world import CURRENT, World


@dataclass(frozen=True)
class Task:
    """One queued task."""

    name: str
    args: tuple[Any, ...] = ()
    queue: str = CELERY_QUEUE
    attempt: int = 0
    void_at: float = field(default=float("inf"))


class Broker:
    """The queues of all nodes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._queues: defaultdict[str, list[Task]] = defaultdict(list)
        self._more = asyncio.Event()

    def publish(self, task: Task, *, expires: float | None = None, after: float = 0.0) -> None:
        """Queue a task. Raises `StoreUnavailable`."""
        if CURRENT.get().network.trouble:
            raise StoreUnavailable("the task queue takes no task")
        if expires is not None:
            task = replace(task, void_at=self._world.now + expires)
        # A task whose reply is lost is sent again, so some tasks come twice.
        for _ in range(1 if self._world.dice.random() < 0.97 else 2):
            delay = after + self._world.dice.uniform(0.001, 0.02)
            asyncio.get_running_loop().call_later(delay, self._add, task)

    def _add(self, task: Task) -> None:
        self._queues[task.queue].append(task)
        self._more.set()
        self._more = asyncio.Event()

    async def take(self, queues: list[str]) -> Task:
        """Return the next task of these queues."""
        process = CURRENT.get()
        while True:
            more = self._more
            await process.pass_on()
            for queue in queues if not process.network.trouble else ():
                while self._queues[queue]:
                    task = self._queues[queue].pop(0)
                    if task.void_at > self._world.now:
                        return task
            # While Redis is away no news of more comes.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1 if process.network.trouble else None):
                    await more.wait()

    def redeliver(self, task: Task) -> None:
        """Redeliver a task that was taken and not acknowledged, after its visibility timeout."""
        asyncio.get_running_loop().call_later(VISIBILITY_SECONDS, self._add, task)
