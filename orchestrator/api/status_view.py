"""What the status page shows: read once for all listeners, each of whom is sent what has changed.

Five round trips to Redis: the three of a `Reading`, then the newest events and session ids, then the records behind
them. Sessions that are over do not change: they are read once. Failure cases: Redis away → `read` raises, and the
listeners are sent that; Redis back empty → the next read shows that; many listeners → they share one read.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from orchestrator.api.admin import living_agents
from orchestrator.api.failure_log import FailureLog
from orchestrator.api.health import describe_health
from orchestrator.api.services import Services
from orchestrator.api.sessions import describe
from orchestrator.models import Session
from orchestrator.task_queue.app import PERIODIC

#: Newest sessions that are shown, and besides them all that are not over.
NEWEST = 200
#: Newest events that one read goes through.
EVENTS = 2000

#: Seconds without a tick after which beat counts as silent. It ticks every 5 s at least.
BEAT_SECONDS = 20.0

Sections = dict[str, Any]


class StatusView:
    """One for each api process."""

    def __init__(self) -> None:
        self._reading = asyncio.Lock()
        self._begun = float("-inf")
        self._last: Sections = {}
        self._over: dict[str, dict[str, Any]] = {}
        self._failures = FailureLog()

    async def read(self, services: Services) -> Sections:
        """Return everything, as JSON. Raises `StoreUnavailable`."""
        asked = time.monotonic()
        async with self._reading:
            # A read that began after this call has seen everything that this caller wants to know.
            if self._begun <= asked:
                begun = time.monotonic()
                self._last = await self._all(services)
                self._begun = begun
            return self._last

    async def _all(self, services: Services) -> Sections:
        reading = await services.store.reading()
        # Events before records: a session's record is then at least as new as its last event.
        activity = await services.store.activity(self._failures.cursor, events=EVENTS, sessions=NEWEST)
        self._failures.take(activity.events)
        sessions = await self._sessions(services, activity.session_ids, reading.live_sessions)
        return {
            "at": reading.now,
            "queueLimit": services.settings.queue_limit,
            "health": describe_health(services, reading).model_dump(mode="json", by_alias=True, exclude_none=True),
            "sessions": sessions,
            "agents": [agent.model_dump(by_alias=True, exclude={"success", "age"}) for agent in living_agents(reading)],
            "charts": {"start": activity.starts, "firstAudio": _first_sounds(sessions)},
            "beat": {
                "lives": reading.now - reading.ticks.get("beat", 0) < BEAT_SECONDS,
                "tasks": {
                    name: {"every": every, "last": reading.ticks.get(name)} for name, (_, every, _) in PERIODIC.items()
                },
            },
            "failures": self._failures.failures,
        }

    async def _sessions(self, services: Services, newest: Sequence[str], live: frozenset[str]) -> list[dict[str, Any]]:
        shown: dict[str, dict[str, Any] | None] = {
            session_id: self._over.get(session_id) for session_id in (*newest, *sorted(live.difference(newest)))
        }
        unknown = [session_id for session_id, brief in shown.items() if brief is None]
        records, still_recorded = await services.store.kept_records(unknown, self._failures.records)
        # guard: failures-kept
        self._failures.keep(still_recorded)
        for session in records:
            shown[session.id] = _brief(session)
        self._over = {name: brief for name, brief in shown.items() if brief and brief["status"] in {"ended", "error"}}
        self._failures.drop_others(shown)
        last = self._failures.last
        return [brief | {"lastEvent": last.get(name, "")} for name, brief in shown.items() if brief]


def changes(before: Sections, after: Sections) -> Sections:
    """Return `at` and the sections that differ; of the sessions those that do, and the ids of those that are `gone`."""
    changed = {name: value for name, value in after.items() if name != "sessions" and before.get(name) != value}
    changed["at"] = after["at"]
    known = {session["sessionId"]: session for session in before.get("sessions", [])}
    now = {session["sessionId"]: session for session in after["sessions"]}
    if sessions := [session for name, session in now.items() if known.get(name) != session]:
        changed["sessions"] = sessions
    if gone := [name for name in known if name not in now]:
        changed["gone"] = gone
    return changed


def _brief(session: Session) -> dict[str, Any]:
    return describe(session).model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"success"})


def _first_sounds(sessions: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return (when, seconds) from each start to the agent's first sound, oldest first."""
    return sorted(
        (round(datetime.fromisoformat(session["createdAt"]).timestamp(), 3), session["timings"]["firstAudio"])
        for session in sessions
        if "firstAudio" in session["timings"]
    )
