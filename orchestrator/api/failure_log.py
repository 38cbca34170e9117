"""The last failures, collected from the stream of all events as it grows."""

import itertools
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic.alias_generators import to_camel

from orchestrator.api.schemas.base import why
from orchestrator.api.sessions import moment
from orchestrator.reasons import Reason

#: Failures that are kept.
FAILURES = 50


class FailureLog:
    """What went wrong lately, and the last event of each session. One for each api process."""

    def __init__(self) -> None:
        self.cursor = ""  #: the last entry that was read
        self._failures: deque[dict[str, Any]] = deque(maxlen=FAILURES)
        self.last: dict[str, str] = {}  #: the last entry of each session

    def take(self, events: Sequence[tuple[str, Mapping[str, str]]]) -> None:
        """Add the events behind `cursor`."""
        for entry, fields in events:
            self.cursor = entry
            if session_id := fields.get("session"):
                self.last[session_id] = entry
            if failure := _failure(fields):
                self._add({"at": moment(int(entry.partition("-")[0]) / 1000)} | failure)

    def drop_others(self, shown: Collection[str]) -> None:
        """Drop the last events of sessions that are no longer shown."""
        self.last = {name: entry for name, entry in self.last.items() if name in shown}

    @property
    def records(self) -> list[tuple[str, str]]:
        """The record behind each failure: ('session' or 'agent', id)."""
        return [_record_id(failure) for failure in self._failures]

    def keep(self, still_recorded: Sequence[bool]) -> None:
        """Drop the failures whose record is gone. `still_recorded`: one flag for each of `records`."""
        self._failures = deque(itertools.compress(self._failures, still_recorded), maxlen=FAILURES)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """What went wrong, newest first."""
        return list(reversed(self._failures))

    def _add(self, failure: dict[str, Any]) -> None:
        last = self._failures[-1] if self._failures else None
        # An agent's death is followed by what it did to its session, which includes the cause: one entry is enough.
        lost = failure.get("agentId") or (failure.get("causeParams") or {}).get("agentId")
        same = last and last["kind"] == "agent" and last["agentId"] == lost
        if last and same and "sessionId" in failure and last["at"] == failure["at"]:
            self._failures.pop()
        self._failures.append(failure)


def _record_id(failure: Mapping[str, Any]) -> tuple[str, str]:
    """Return the record behind a failure."""
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
    fields = why("cause", reason) or {"cause": ""}
    return {to_camel(name): value for name, value in fields.items() if value is not None}


def _kind(cause: Reason | None, fields: Mapping[str, str]) -> str:
    """Return `boot` of an agent that did not boot, `agent` of one that ended unbidden, '' of any other."""
    if cause is None or cause.row is None:
        # The release before wrote no code.
        return "agent" if fields.get("signal") or fields.get("exitCode", "0") not in {"", "0"} else ""
    if cause.row.booting:
        return "boot"
    return "agent" if cause.row.kind == "death" else ""
