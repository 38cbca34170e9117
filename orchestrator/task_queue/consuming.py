"""How a Celery worker waits for Redis: inside its process, without a limit, and with short pauses."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.state import maybe_shutdown

from orchestrator.config.redis_url import Address
from orchestrator.errors import StoreUnavailable
from orchestrator.settings import Settings
from orchestrator.store import Store

log = logging.getLogger("orchestrator.worker.tasks")

#: Seconds between two tries to reach Redis at the start, and the longest between two later; Celery's own longest is 30.
RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 4.0


class Consumer(CeleryConsumer):  # type: ignore[misc] # celery has no types
    """Celery's consumer, which tries to reach its broker often enough."""

    def ensure_connected(self, conn: Any) -> Any:
        """Return the connection once there is one, and Redis takes writes: without that nothing can be consumed."""
        conn.ensure_connection = partial(
            conn.ensure_connection, interval_start=1, interval_step=1, interval_max=MAX_RETRY_SECONDS
        )
        connection = super().ensure_connected(conn)
        wait_for_redis(Settings.load(), maybe_shutdown)
        return connection


def wait_for_redis(settings: Settings, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Return when Redis takes writes; `meanwhile` is called between attempts, and may raise."""
    asyncio.run(_until_it_serves(settings.redis, meanwhile))


async def _until_it_serves(where: Address, meanwhile: Callable[[], object]) -> None:
    logged = ""
    async with Store(where, name="worker.start", keep_seconds=1) as store:
        while True:
            try:
                await store.take_write()
            except StoreUnavailable as failure:
                if failure.detail != logged:
                    log.warning("the Celery worker waits: %s", failure.detail)
                logged = failure.detail
            else:
                return
            meanwhile()
            await asyncio.sleep(RETRY_SECONDS)
