"""What the status page shows: read once for all who look at it, and told to each as what has changed.

Sessions that are over do not change: they are read once. Failure cases: Redis gone → `read` raises, and whoever
follows is told so; Redis back empty → the next read shows that; many listeners → they share one read.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from pydantic.alias_generators import to_camel

from orchestrator.api.admin import living_agents
from orchestrator.api.health import describe_health
from orchestrator.api.schemas import why
from orchestrator.api.services import Services
from orchestrator.api.sessions import describe, moment
from orchestrator.models import Session
from orchestrator.reasons import Reason
from orchestrator.task_queue.app import PERIODIC

#: Newest sessions that are shown; those that are not over are, however old they are.
NEWEST = 200
#: Failures that are shown, and state changes that are looked through for them at first.
FAILURES, LOOKED_THROUGH = 50, 2000

#: Beat turns every 5 s at least.
BEAT_SECONDS = 20.0

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
        # First: a session that is read later is at least as new as its last entry says.
        await self._happenings.read(parts)
        await self._happenings.forget_lost(parts)
        sessions = await self._sessions(parts)
        ticks, now = await parts.store.beat_ticks(), await parts.store.now()
        agents = await living_agents(parts)
        return {
            "at": now,
            "queueLimit": parts.settings.queue_limit,
            "health": (await describe_health(parts)).model_dump(mode="json", by_alias=True, exclude_none=True),
            "sessions": sessions,
            "agents": [agent.model_dump(by_alias=True, exclude={"success", "age"}) for agent in agents],
            "charts": {
                "start": (await parts.store.recent("start"))[-NEWEST:],
                "firstAudio": _first_sounds(sessions),
            },
            "beat": {
                "lives": now - ticks.get("beat", 0) < BEAT_SECONDS,
                "tasks": {name: {"every": every, "last": ticks.get(name)} for name, (_, every, _) in PERIODIC.items()},
            },
            "failures": self._happenings.failures,
        }

    async def _sessions(self, parts: Services) -> list[dict[str, Any]]:
        ids = await parts.store.session_ids(NEWEST)
        older = (await parts.store.live_session_ids()).difference(ids)
        shown: dict[str, dict[str, Any] | None] = {
            session_id: self._over.get(session_id) for session_id in (*ids, *sorted(older))
        }
        for session in await parts.store.session_records([name for name, known in shown.items() if known is None]):
            shown[session.id] = _brief(session)
        self._over = {name: found for name, found in shown.items() if found and found["status"] in {"ended", "error"}}
        self._happenings.forget(shown)
        last = self._happenings.last
        return [found | {"lastEvent": last.get(name, "")} for name, found in shown.items() if found]


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
        self._cursor = ""
        self._failures: deque[dict[str, Any]] = deque(maxlen=FAILURES)
        #: The last entry of each session of which one was seen.
        self.last: dict[str, str] = {}

    async def read(self, parts: Services) -> None:
        """Take note of what is new."""
        for entry, fields in await parts.store.happenings(self._cursor, LOOKED_THROUGH):
            self._cursor = entry
            if session_id := fields.get("session"):
                self.last[session_id] = entry
            if failure := _failure(fields):
                self._note({"at": moment(int(entry.partition("-")[0]) / 1000)} | failure)

    def forget(self, shown: Collection[str]) -> None:
        """Forget the sessions that are not shown any more."""
        self.last = {name: entry for name, entry in self.last.items() if name in shown}

    async def forget_lost(self, parts: Services) -> None:
        """Forget the failures of which no record is left: whoever opens one finds its session, or its agent's log."""
        kept = await parts.store.kept([_record(failure) for failure in self._failures])
        self._failures = deque(itertools.compress(self._failures, kept), maxlen=FAILURES)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """What went wrong, newest first."""
        return list(reversed(self._failures))

    def _note(self, failure: dict[str, Any]) -> None:
        last = self._failures[-1] if self._failures else None
        # What the death of an agent did to its session is recorded with it, and says more.
        lost = failure.get("agentId") or (failure.get("causeParams") or {}).get("agentId")
        same = last and last["kind"] == "agent" and last["agentId"] == lost
        if last and same and "sessionId" in failure and last["at"] == failure["at"]:
            self._failures.pop()
        self._failures.append(failure)


def _record(failure: Mapping[str, Any]) -> tuple[str, str]:
    """Return which record tells more of a failure."""
    session_id = failure.get("sessionId")
    return ("session", session_id) if session_id else ("agent", failure["agentId"])


def _failure(fields: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what went wrong with a state change: kind, cause and whom it concerns; None when nothing did."""
    state, session_id, agent_id = fields.get("state"), fields.get("session"), fields.get("agent")
    cause = Reason.recorded_as(fields, "cause")
    if session_id and state == "error":
        return {"kind": "session", **_cause(Reason.recorded_as(fields, "reason")), "sessionId": session_id}
    if session_id and state in {"takeover", "replacement"}:
        return {"kind": state, **_cause(cause), "sessionId": session_id, "agentId": fields.get("agentId", "")}
    if agent_id and state == "exited" and (kind := _kind(cause, fields)):
        return {"kind": kind, **_cause(cause), "agentId": agent_id}
    return None


def _cause(reason: Reason | None) -> dict[str, Any]:
    told = why("cause", reason) or {"cause": ""}
    return {to_camel(name): value for name, value in told.items() if value is not None}


def _kind(cause: Reason | None, fields: Mapping[str, str]) -> str:
    """Return `boot` of an agent that did not boot, `agent` of one that ended unbidden, '' of any other."""
    if cause is None or cause.row is None:
        # The release before wrote no code.
        return "agent" if fields.get("signal") or fields.get("exitCode", "0") not in {"", "0"} else ""
    if cause.row.booting:
        return "boot"
    return "agent" if cause.row.kind == "death" else ""
