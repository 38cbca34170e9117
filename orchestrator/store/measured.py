"""What is measured, and what the operator's webhook is told of it."""

import json
from typing import Any

from redis.exceptions import ResponseError

from orchestrator.store import keys, reading
from orchestrator.store.base import Base, translated
from orchestrator.store.reading import Reading
from orchestrator.store.records import MemoryUse


class Measured(Base):
    """The store of measurements."""

    def observe(self, series: str, seconds: float) -> None:
        """Count a duration that this process has measured, soon; `series` is one of `histograms.BOUNDS`."""
        self._samples.add(series, seconds)

    @translated
    async def recent(self, name: str) -> list[tuple[float, float]]:
        """Return the newest samples of a histogram (`start`, `boot`, `join`, `first_audio`, `takeover`), oldest first,
        each as (unix time, seconds); about the last 500 are kept."""
        rows = (row.split() for row in await self._redis.lrange(keys.recent(name), 0, -1))
        return [(int(at) / 1000, float(ms) / 1000) for ms, at in rows][::-1]

    @translated
    async def reading(self) -> Reading:
        """Return everything that is measured."""
        _, most, *_ = await self._scripts.call("capacity", args=[""])
        return await reading.take(self._redis, int(most) or None)

    @translated
    async def memory_use(self) -> MemoryUse:
        """Return how much memory Redis has and may have, as far as it tells."""
        try:
            found = await self._redis.info("memory")
        except ResponseError:  # not everybody may ask
            return MemoryUse()
        return MemoryUse(
            int(found.get("used_memory", 0)),
            int(found.get("maxmemory", 0)),
            str(found.get("maxmemory_policy", "")),
            int(found.get("total_system_memory", 0)),
        )

    async def look_at_alerts(self) -> list[str]:
        """Tell what has begun or is over; returns the names of what is wrong."""
        return list(await self._scripts.call("alerts_look"))

    @translated
    async def alert(self, alert_id: str) -> dict[str, Any] | None:
        """Return what is to be told: `type`, `at` in milliseconds, `data`; None when that is too old."""
        found = await self._redis.get(keys.alert(alert_id))
        return dict(json.loads(found)) if found else None

    @translated
    async def alert_queued(self, alert_id: str) -> None:
        """Say that the delivery of an alert is queued."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrem(keys.DEADLINES, f"alert|{alert_id}")
            pipe.delete(keys.alert(alert_id))
            await pipe.execute()
