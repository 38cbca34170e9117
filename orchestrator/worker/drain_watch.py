"""Whether this node drains. While it does, its Celery worker takes no task from the shared queue."""

import asyncio
import logging

from orchestrator.worker.service import Background
from orchestrator.worker.task_queue import TaskQueue

log = logging.getLogger("orchestrator.worker.drain_watch")


class DrainWatch:
    """Follows whether one node drains, which its heartbeat reads."""

    def __init__(self, queue: TaskQueue, background: Background) -> None:
        self._queue, self._background = queue, background
        self.draining = False

    def update(self, draining: bool) -> None:
        """Switch the shared queue off or on if the node has begun or ended a drain."""
        if draining is self.draining:
            return
        self.draining = draining
        log.info("the node drains" if draining else "the node is in service")
        self._background.begin(asyncio.to_thread(self._queue.consume, not draining))
