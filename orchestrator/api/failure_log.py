"""The last failures, collected from the stream of all events as it grows."""

import itertools
import re
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from orchestrator.api.sessions import moment

#: Failures that are kept.
FAILURES = 50

#: How an agent's process ends unexpectedly.
_UNEXPECTED = re.compile(
    r"killed by signal|exited with code [1-9]|no heartbeat|process gone|private memory|pid belongs|found dead"
)
_NOT_BOOTED = re.compile(r"boot_\w+:|unclaimed:|not spawned")


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
        return [_record(failure) for failure in self._failures]

    def keep(self, kept: Sequence[bool]) -> None:
        """Drop the failures whose record is gone, since nobody could open them. `kept`: for each of `records`."""
        self._failures = deque(itertools.compress(self._failures, kept), maxlen=FAILURES)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """What went wrong, newest first."""
        return list(reversed(self._failures))

    def _add(self, failure: dict[str, Any]) -> None:
        last = self._failures[-1] if self._failures else None
        # An agent's death is followed by what it did to its session, which includes the cause: one entry is enough.
        same = last and last["kind"] == "agent" and failure["cause"].endswith(last["cause"])
        if last and same and "sessionId" in failure and last["at"] == failure["at"]:
            self._failures.pop()
        self._failures.append(failure)


def _record(failure: Mapping[str, Any]) -> tuple[str, str]:
    """Return the record behind a failure."""
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
