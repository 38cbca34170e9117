"""Readings of the whole state, recent events, measured durations, and alerts for the operator's webhook."""

import json
from collections.abc import Sequence
from typing import Any

from orchestrator.models import Session
from orchestrator.store import keys, reading
from orchestrator.store.base import Base, translated
from orchestrator.store.reading import Reading
from orchestrator.store.records import Activity


class Measured(Base):
    """The store of measurements."""

    def observe(self, series: str, seconds: float) -> None:
        """Count a duration that this process has measured, soon; `series` is one of `histograms.BOUNDS`."""
        self._samples.add(series, seconds)

    @translated
    async def recent(self, name: str) -> list[tuple[float, float]]:
        """Return the newest samples of a histogram (`start`, `boot`, `join`, `first_audio`, `takeover`), oldest first,
        each as (unix time, seconds); about the last 500 are kept."""
        return _samples(await self._redis.lrange(keys.recent(name), 0, -1))

    @translated
    async def reading(self) -> Reading:
        """Return the state of the deployment. Three round trips."""
        return await reading.take(self._redis, self._scripts)

    async def counts(self) -> dict[str, int]:
        """Return how many sessions and agents there are, by what they do, and the pool's target."""
        return (await self.reading()).counts

    @translated
    async def activity(self, after: str, *, events: int, sessions: int) -> Activity:
        """Return what happened behind an entry of the stream of events, and which sessions are the newest."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xrevrange(keys.EVENTS, "+", f"({after}" if after else "-", count=events)
            pipe.zrevrange(keys.SESSIONS, 0, sessions - 1)
            pipe.lrange(keys.recent("start"), 0, sessions - 1)
            rows, session_ids, starts = await pipe.execute()
        return Activity(
            events=[(str(entry), dict(fields)) for entry, fields in reversed(rows)],
            session_ids=session_ids,
            starts=_samples(starts),
        )

    @translated
    async def kept_records(
        self, session_ids: Sequence[str], others: Sequence[tuple[str, str]]
    ) -> tuple[list[Session], list[bool]]:
        """Return these sessions, as far as their records are kept; and which of some other records, ('session' or
        'agent', id) each, are kept."""
        key = {"session": keys.session, "agent": keys.agent}
        async with self._redis.pipeline(transaction=False) as pipe:
            for session_id in session_ids:
                pipe.hgetall(keys.session(session_id))
            for kind, name in others:
                pipe.exists(key[kind](name))
            replies = await pipe.execute()
        hashes, existing = replies[: len(session_ids)], replies[len(session_ids) :]
        records = zip(session_ids, hashes, strict=True)
        sessions = [Session.from_hash(name, fields) for name, fields in records if fields.get("status")]
        return sessions, [*map(bool, existing)]

    async def check_alerts(self) -> list[str]:
        """Send what has begun or is over; returns the names of what is wrong."""
        return list(await self._scripts.call("check_alerts"))

    @translated
    async def alert(self, alert_id: str) -> dict[str, Any] | None:
        """Return a message: `type`, `at` in milliseconds, `data`; None if it has expired."""
        stored = await self._redis.get(keys.alert(alert_id))
        return dict(json.loads(stored)) if stored else None

    @translated
    async def alert_queued(self, alert_id: str) -> None:
        """Say that the delivery of an alert is queued."""
        await self._scripts.call("alert_queued", args=[alert_id])


def _samples(rows: Sequence[str]) -> list[tuple[float, float]]:
    """Return samples, oldest first, each as (unix time, seconds)."""
    return [(int(at) / 1000, float(ms) / 1000) for ms, at in (row.split() for row in reversed(rows))]
