"""A session's flight record, told as a story in plain sentences."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from orchestrator.reasons import PROCESS_ENDS, Reason, event_words, exit_of, table

_LIVE = {
    "queued": "It waits in line.",
    "starting": "It waits for an agent.",
    "ready": "It has an agent, and waits for the user.",
    "active": "The call goes on.",
}


#: What begins the wait for an agent, by whether the session was in line before.
_CALLED = {False: "starting_cold", True: "starting_in_turn"}


def story(record: dict[str, Any]) -> list[str]:
    """Return what happened in a session, line by line, from what `GET /api/session/{id}` answers."""
    begun = datetime.fromisoformat(record["createdAt"])
    told = Telling(begun)
    for line in _beginning(record):
        told.at(0, line)
    _tell_events(told, record)
    lines = [f"Session {record['sessionId']}, {record['status']}, room {record['roomName']}", "", *told.lines]
    if record["status"] in _LIVE:
        lines.append(_now(record))
    if agents := record.get("agents"):
        lines += ["", "Its agents" if len(agents) > 1 else "Its agent", *(f"  {_agent(agent)}" for agent in agents)]
    if record["status"] == "error" and record.get("lastLogLines"):
        lines += ["", "The last that was logged", *(f"  {line}" for line in record["lastLogLines"])]
    return lines


class Telling:
    """Lines with the time of day and the seconds since the start."""

    def __init__(self, begun: datetime) -> None:
        self._begun = begun
        self.lines: list[str] = []

    def at(self, seconds: float, text: str) -> None:
        """Add what happened at a time."""
        clock = (self._begun + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")[11:23]
        self.lines.append(f"{clock}  {seconds:+9.3f} s  {text}")


def _beginning(record: dict[str, Any]) -> Iterator[str]:
    if record.get("via") == "dispatch":
        by, day = record.get("dispatchId"), record["createdAt"][:10]
        yield f"LiveKit asked for an agent in this room, by dispatch {by} ({day}, UTC)."
        return
    client = record.get("client")
    where = f", from {client}" if client else ""
    yield f"{record['userId']} asked for an agent{where} ({record['createdAt'][:10]}, UTC)."


def _tell_events(told: Telling, record: dict[str, Any]) -> None:
    agents = {agent["agentId"]: agent for agent in record.get("agents") or ()}
    events = record.get("events") or []
    waits = _Waits()
    for event in events:
        if not event.get("toldNext") and (text := _sentence(event, waits, agents, _reason(record, "reason"))):
            told.at(event["at"], text)
        waits.note(event)


def _reason(told: dict[str, Any], name: str) -> Reason | None:
    """Return the reason that an answer holds as `name`, `{name}Code` and `{name}Params`."""
    text = told.get(name)
    return Reason(told.get(f"{name}Code") or "", told.get(f"{name}Params") or {}, text) if text else None


def _sentence(
    event: dict[str, Any], waits: "_Waits", agents: dict[str, dict[str, Any]], reason: Reason | None
) -> str | None:
    """Return what an event says; None for the steps of a boot, and for an event of a newer release."""
    state, at, cause = event["state"], event["at"], _reason(event, "cause")
    code: str = state
    params: dict[str, str] = {}
    match state:
        case "starting":
            code = "starting_again" if waits.lost is not None else _CALLED[waits.queued is not None]
        case "ready":
            code, params = waits.served(at)
        case "agent_joined":
            code, params = waits.joined(at)
        case "active":
            code = "active_again" if waits.began else "active_first"
        case "first_audio":
            params = {"seconds": f"{at:.3f}"}
        case "ended" | "error":
            params = {"reason": _end(_reason(event, "reason") or reason), **waits.unserved(at)}
    if code not in table().events:
        return None
    agent_id = event.get("agentId", "")
    agent = agents.get(agent_id, {}) if state == "ready" else {}
    where = f" (pid {agent['pid']} on {agent['node']})" if agent.get("pid") else ""
    told = {name: event.get(name) or None for name in ("position", "failedAgentId")}
    why = cause.words if cause else event_words("cause_unknown")
    return event_words(code, **{"agent": f"{_short(agent_id)}{where}", "reason": why, **told, **params})


class _Waits:
    """Since when there is nobody to talk to."""

    def __init__(self) -> None:
        self.queued: float | None = None
        self.asked: float | None = None  #: for an agent
        self.lost: float | None = None  #: its agent
        self.unheard = 0.0  #: seconds for which the lost agent had been silent before that was noticed
        self.began = False

    def note(self, event: dict[str, Any]) -> None:
        match event["state"]:
            case "queued":
                self.queued = event["at"]
            case "starting" if self.lost is None:
                self.asked = event["at"]
            case "takeover" | "replacement":
                # Lost again before anybody had come: the user has waited since the first loss.
                if self.lost is None:
                    silent = event.get("causeCode") == "no_heartbeat"
                    self.lost, self.unheard = event["at"], event["causeParams"]["seconds"] if silent else 0.0
            case "agent_joined":
                self.lost = None
            case "active":
                self.began = True

    def served(self, at: float) -> tuple[str, dict[str, str]]:
        """Return the code of the event that gives an agent, and how long that took."""
        if self.lost is not None:
            later = at - self.lost
            return ("ready_again", {"seconds": f"{later:.3f}"}) if later else ("ready_again_at_once", {})
        if self.asked is None and self.queued is None:
            return "ready_at_once", {}
        first = self.asked if self.queued is None else self.queued
        assert first is not None
        params = {"seconds": f"{at - first:.3f}"}
        if self.queued is not None and self.asked is not None:
            params["lineSeconds"] = f"{self.asked - self.queued:.3f}"
        return "ready", params

    def joined(self, at: float) -> tuple[str, dict[str, str]]:
        """Return the code of the event that brings an agent into the room, and for how long there was none."""
        if self.lost is None:
            return "agent_joined", {}
        seconds = {"seconds": f"{at - self.lost + self.unheard:.3f}"}
        return "agent_joined_again" if self.began else "agent_joined_before_call", seconds

    def unserved(self, at: float) -> dict[str, str]:
        """Return for how many seconds there was no agent at the end; {} if there was one."""
        return {} if self.lost is None else {"seconds": f"{at - self.lost + self.unheard:.3f}"}


def _end(reason: Reason | None) -> str:
    if reason is None:
        return event_words("reason_unknown")
    if reason.row is None or not reason.row.sentence:
        return reason.words
    return reason.row.sentence + (f" ({reason.facts})" if reason.facts else "")


def _now(record: dict[str, Any]) -> str:
    text = _LIVE[record["status"]]
    if record.get("position"):
        text = f"{text[:-1]}: it is number {record['position']}"
        text += f", about {record['estimatedWait']} to go." if record.get("estimatedWait") else "."
    return text


def _agent(agent: dict[str, Any]) -> str:
    told = [agent["agentId"]]
    if agent.get("pid"):
        told.append(f"pid {agent['pid']}")
    if agent.get("node"):
        told.append(f"on {agent['node']}")
    text = f"{' '.join(told)}: {_how(agent)}"
    if agent.get("peakMemory"):
        text += f", peak memory {agent['peakMemory'] / 2**20:.0f} MiB"
    return text


def _how(agent: dict[str, Any]) -> str:
    """Return how an agent's process ended, and why where that is something else."""
    number, code, cause = agent.get("signal"), agent.get("exitCode"), _reason(agent, "cause")
    if number is None and code is None:
        return cause.words if cause else f"is {agent['status']}"
    ended = exit_of(code, number).facts
    if cause is None:
        return ended
    # The text of a record without a code is all that is known.
    if not cause.code or {cause.code, cause.params.get("cause")} & PROCESS_ENDS:
        return cause.words
    return f"{ended} ({cause.words})"


def _short(agent_id: str) -> str:
    """Return an id that can be told from others and read in a sentence."""
    return re.sub(r"(?<=_[0-9a-f]{8})[0-9a-f]{24}$", "…", agent_id)
