"""Whether this node drains. While it does, its Celery worker takes no task from the shared queue."""

import asyncio
import logging

from orchestrator.store import Store
from orchestrator.worker.service import Background
from orchestrator.worker.task_queue import TaskQueue

log = logging.getLogger("orchestrator.worker.drain_watch")


class DrainWatch:
    """Follows whether one node drains."""

    def __init__(self, node: str, store: Store, queue: TaskQueue, background: Background) -> None:
        self._node, self._store, self._queue, self._background = node, store, queue, background
        self.draining = False

    async def update(self) -> None:
        """Read whether the node drains, and switch the shared queue off or on if that has changed."""
        draining = self._node in await self._store.draining()
        if draining is self.draining:
            return
        self.draining = draining
        log.info("the node drains" if draining else "the node is in service")
        self._background.begin(asyncio.to_thread(self._queue.consume, not draining))
