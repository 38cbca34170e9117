"""Proves that the Celery worker consumes: this node regularly sends a task to its own queue.

A Celery worker may hang in a connection to the broker that is long dead. Then no canary comes through, and the process
ends itself; supervisord restarts it, and agents do not notice.
"""

import asyncio
import logging
import os
from collections.abc import Callable

from orchestrator.clock import Clock
from orchestrator.errors import StoreUnavailable
from orchestrator.store import Store
from orchestrator.task_queue.app import WEDGED_SECONDS

log = logging.getLogger("orchestrator.worker.canary")

CANARY_SECONDS = 5.0


class Canary:
    """The canary of one node. `send` blocks: it is called in a thread."""

    def __init__(
        self, store: Store, clock: Clock, send: Callable[[], None], end_process: Callable[[int], object] = os._exit
    ) -> None:
        self._store, self._clock, self._send, self._end_process = store, clock, send, end_process
        self._seen_at = clock.monotonic()
        self._sent = False

    def note(self) -> None:
        """Note that a task came through the queue. Safe in any thread."""
        self._seen_at = self._clock.monotonic()

    @property
    def age(self) -> float:
        """Seconds since a task came through the queue."""
        return self._clock.monotonic() - self._seen_at

    async def send(self) -> None:
        """Queue the next one, or end this process if none has come through for too long."""
        try:
            await self._store.take_write()
        except StoreUnavailable:
            self.note()  # while Redis is away none can come through
            raise
        silent = self.age
        if silent > WEDGED_SECONDS and self._sent:
            log.critical("the Celery worker has consumed nothing for %.0f s: it ends and will be restarted", silent)
            self._end_process(1)
        self._sent = False  # a canary that was not queued proves nothing about the consumer
        await asyncio.to_thread(self._send)
        self._sent = True
