"""What the status page shows: read once for all who look at it, and told to each as what has changed.

Sessions that are over do not change: they are read once. Failure cases: Redis gone → `read` raises, and whoever
follows is told so; Redis back empty → the next read shows that; many listeners → they share one read.
"""

import asyncio
import itertools
import re
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestrator.api.admin import living_agents
from orchestrator.api.health import describe_health
from orchestrator.api.services import Services
from orchestrator.api.sessions import describe, moment
from orchestrator.models import Session
from orchestrator.task_queue.app import PERIODIC

#: Newest sessions that are shown; those that are not over are, however old they are.
NEWEST = 200
#: Failures that are shown, and state changes that are looked through for them at first.
FAILURES, LOOKED_THROUGH = 50, 2000

#: Beat turns every 5 s at least.
BEAT_SECONDS = 20.0

#: How an agent's process ends when nobody has told it to.
_UNEXPECTED = re.compile(
    r"killed by signal|exited with code [1-9]|no heartbeat|process gone|private memory|pid belongs|found dead"
)
_NOT_BOOTED = re.compile(r"boot_\w+:|unclaimed:|not spawned")

Sections = dict[str, Any]


class Board:
    """One per api."""

    def __init__(self) -> None:
        self._reading = asyncio.Lock()
        self._begun = float("-inf")
        self._last: Sections = {}
        self._over: dict[str, dict[str, Any]] = {}
        self._happenings = Happenings()

    async def read(self, parts: Services) -> Sections:
        """Return everything, as JSON. Raises `StoreUnavailable`."""
        asked = time.monotonic()
        async with self._reading:
            # Whoever waited while another read began is served by that one: it has seen what they want to know.
            if self._begun <= asked:
                begun = time.monotonic()
                self._last = await self._all(parts)
                self._begun = begun
            return self._last

    async def _all(self, parts: Services) -> Sections:
        reading = await parts.store.reading()
        # Events before records: a session's record is then at least as new as its last event.
        activity = await parts.store.activity(self._happenings.cursor, events=LOOKED_THROUGH, sessions=NEWEST)
        self._happenings.take(activity.events)
        sessions = await self._sessions(parts, activity.session_ids, reading.live_sessions)
        return {
            "at": reading.now,
            "queueLimit": parts.settings.queue_limit,
            "health": describe_health(parts, reading).model_dump(mode="json", by_alias=True, exclude_none=True),
            "sessions": sessions,
            "agents": [agent.model_dump(by_alias=True, exclude={"success", "age"}) for agent in living_agents(reading)],
            "charts": {"start": activity.starts, "firstAudio": _first_sounds(sessions)},
            "beat": {
                "lives": reading.now - reading.ticks.get("beat", 0) < BEAT_SECONDS,
                "tasks": {
                    name: {"every": every, "last": reading.ticks.get(name)} for name, (_, every, _) in PERIODIC.items()
                },
            },
            "failures": self._happenings.failures,
        }

    async def _sessions(self, parts: Services, newest: Sequence[str], live: frozenset[str]) -> list[dict[str, Any]]:
        shown: dict[str, dict[str, Any] | None] = {
            session_id: self._over.get(session_id) for session_id in (*newest, *sorted(live.difference(newest)))
        }
        unknown = [session_id for session_id, brief in shown.items() if brief is None]
        records, kept = await parts.store.kept_records(unknown, self._happenings.records)
        self._happenings.keep(kept)
        for session in records:
            shown[session.id] = _brief(session)
        self._over = {name: brief for name, brief in shown.items() if brief and brief["status"] in {"ended", "error"}}
        self._happenings.forget(shown)
        last = self._happenings.last
        return [brief | {"lastEvent": last.get(name, "")} for name, brief in shown.items() if brief]


def changes(before: Sections, after: Sections) -> Sections:
    """Return `at` and the sections that differ; of the sessions those that do, and the ids of those that are `gone`."""
    told = {name: value for name, value in after.items() if name != "sessions" and before.get(name) != value}
    told["at"] = after["at"]
    known = {session["sessionId"]: session for session in before.get("sessions", [])}
    now = {session["sessionId"]: session for session in after["sessions"]}
    if changed := [session for name, session in now.items() if known.get(name) != session]:
        told["sessions"] = changed
    if gone := [name for name in known if name not in now]:
        told["gone"] = gone
    return told


def _brief(session: Session) -> dict[str, Any]:
    return describe(session).model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"success"})


def _first_sounds(sessions: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return (when, seconds) from each start to the agent's first sound, oldest first."""
    return sorted(
        (round(datetime.fromisoformat(session["createdAt"]).timestamp(), 3), session["timings"]["firstAudio"])
        for session in sessions
        if "firstAudio" in session["timings"]
    )


class Happenings:
    """Reads the stream of state changes as it grows: what went wrong, and which session something happened to."""

    def __init__(self) -> None:
        self.cursor = ""  #: the last entry that was read
        self._failures: deque[dict[str, Any]] = deque(maxlen=FAILURES)
        #: The last entry of each session of which one was seen.
        self.last: dict[str, str] = {}

    def take(self, events: Sequence[tuple[str, Mapping[str, str]]]) -> None:
        """Take note of the events behind `cursor`."""
        for entry, fields in events:
            self.cursor = entry
            if session_id := fields.get("session"):
                self.last[session_id] = entry
            if failure := _failure(fields):
                self._note({"at": moment(int(entry.partition("-")[0]) / 1000)} | failure)

    def forget(self, shown: Collection[str]) -> None:
        """Forget the sessions that are not shown any more."""
        self.last = {name: entry for name, entry in self.last.items() if name in shown}

    @property
    def records(self) -> list[tuple[str, str]]:
        """Which record tells more of each failure: ('session' or 'agent', id)."""
        return [_record(failure) for failure in self._failures]

    def keep(self, kept: Sequence[bool]) -> None:
        """Forget the failures whose record is gone: nothing would be found behind them. `kept`: of each `records`."""
        self._failures = deque(itertools.compress(self._failures, kept), maxlen=FAILURES)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """What went wrong, newest first."""
        return list(reversed(self._failures))

    def _note(self, failure: dict[str, Any]) -> None:
        last = self._failures[-1] if self._failures else None
        # What the death of an agent did to its session is recorded with it, and says more.
        same = last and last["kind"] == "agent" and failure["cause"].endswith(last["cause"])
        if last and same and "sessionId" in failure and last["at"] == failure["at"]:
            self._failures.pop()
        self._failures.append(failure)


def _record(failure: Mapping[str, Any]) -> tuple[str, str]:
    """Return which record tells more of a failure."""
    session_id = failure.get("sessionId")
    return ("session", session_id) if session_id else ("agent", failure["agentId"])


def _failure(fields: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what went wrong with a state change: kind, cause and whom it concerns; None when nothing did."""
    state, cause = fields.get("state"), fields.get("cause", "")
    if session_id := fields.get("session"):
        if state == "error":
            return {"kind": "session", "cause": fields.get("reason", ""), "sessionId": session_id}
        if state in {"takeover", "replacement"}:
            return {"kind": state, "cause": cause, "sessionId": session_id, "agentId": fields.get("agentId", "")}
        return None
    if agent_id := fields.get("agent"):
        if state == "exited" and _NOT_BOOTED.match(cause):
            return {"kind": "boot", "cause": cause, "agentId": agent_id}
        if state == "exited" and _UNEXPECTED.match(cause):
            return {"kind": "agent", "cause": cause, "agentId": agent_id}
    return None
