"""What the routes share. Built once by `lifecycle.serving`; routes get it as `dependencies.ServicesDep`."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from orchestrator import faults
from orchestrator.api.access import Access
from orchestrator.api.change_feed import ChangeFeed
from orchestrator.errors import StoreUnavailable
from orchestrator.livekit.room_creation import RoomCreator
from orchestrator.livekit.tokens import TokenMinter
from orchestrator.livekit.webhooks import Webhooks
from orchestrator.logs import request_id
from orchestrator.pool.assignment import Assigner, Started
from orchestrator.reasons import because
from orchestrator.settings import Settings
from orchestrator.states import SessionState
from orchestrator.store import Store
from orchestrator.task_queue import app as celery_app
from orchestrator.task_queue.app import Publisher

log = logging.getLogger("orchestrator.api")


@dataclass(slots=True)
class Services:
    """Everything that the routes of one api process share."""

    settings: Settings
    access: Access
    store: Store
    feed: ChangeFeed
    assigner: Assigner
    minter: TokenMinter
    rooms: RoomCreator
    webhooks: Webhooks
    publisher: Publisher
    threads: ThreadPoolExecutor
    background: set[asyncio.Task[None]]
    proven: bool = False  #: an agent of this node has been warm since the api started

    async def publish(self, task: str, *args: Any, queue: str | None = None, **options: Any) -> None:
        """Queue a Celery task. Raises `StoreUnavailable` when the broker does not take it."""
        headers = {"request_id": request_id()}  # read here: the thread has no request
        await asyncio.get_running_loop().run_in_executor(
            self.threads, lambda: self.publisher.send(task, *args, queue=queue, headers=headers, **options)
        )

    def publish_soon(self, task: str, *args: Any, **options: Any) -> None:
        """Queue a Celery task after the answer was sent. Beat makes up for a task that is lost."""

        async def send() -> None:
            try:
                await self.publish(task, *args, **options)
            except StoreUnavailable as failure:
                log.warning("a Celery task was not queued", extra={"task": task, "cause": failure.detail})

        pending = asyncio.create_task(send())
        self.background.add(pending)
        pending.add_done_callback(self.background.discard)

    async def queue_for(self, started: Started, key: str) -> None:
        """Queue the tasks of a start: the boot of its agent, a refill.

        Raises `StoreUnavailable` when the boot cannot be queued: then the session is over, and its key may be used
        again.
        """
        if started.spawn:
            faults.hit("api.after_assign")
            try:
                await self.publish(celery_app.SPAWN_AGENT, started.session_id, task_id=started.session_id)
            except StoreUnavailable:
                await self.store.end_session(started.session_id, SessionState.ERROR, because("spawn_not_queued"))
                if key:
                    await self.store.release_key(key)
                raise
        if started.refill:
            self.publish_soon(celery_app.REFILL, expires=25)
