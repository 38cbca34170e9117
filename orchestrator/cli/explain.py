"""A session's flight record, told as a story in plain sentences."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from orchestrator.reasons import PROCESS_ENDS, Reason, exit_of

_LIVE = {
    "queued": "It waits in line.",
    "starting": "It waits for an agent.",
    "ready": "It has an agent, and waits for the user.",
    "active": "The call goes on.",
}

_PLAIN = {
    "user_left": "The user left the room.",
    "user_lost": "The user's connection was lost.",
    "user_back": "The user was back.",
    "goodbye": "The node was stopping: the agent was told to say goodbye.",
    "goodbye_off": "The node was put in service again: the call was not ended for it.",
    "registered": "Redis had lost this session; its agent registered it again.",
}


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
    found = _reason(event, "cause")
    at, cause = event["at"], found.words if found else "nobody saw how"
    text = _PLAIN.get(event["state"])
    match event["state"]:
        case "queued":
            place = f", at place {event['position']}" if "position" in event else ""
            text = f"All sessions were taken: it waited in line{place}."
        case "boot_retried":
            text = f"The agent did not boot ({cause}): another one was tried.{_log_of(event)}"
        case "starting" if waits.lost is not None:
            text = "No warm agent was there to take over: one was started."
        case "starting":
            text = "It was its turn." if waits.queued is not None else "No agent was warm: one was started for it."
        case "ready":
            text = waits.served(event, agents.get(event.get("agentId", "")))
        case "agent_joined":
            text = "The agent joined the room." + waits.joined(at)
        case "active":
            text = "The call went on." if waits.began else "The user was there: the call began."
        case "first_audio":
            text = f"The agent was heard for the first time, {at:.3f} s after the start."
        case "agent_exited":
            text = f"The process of {_short(event['agentId'])} ended: {cause}."
        case "takeover" | "replacement":
            text = f"The agent was lost ({cause}){'' if waits.began else ', before the call began'}."
        case "ended" | "error" as state:
            text = _end(state, _reason(event, "reason") or reason) + _log_of(event) + waits.unserved(at)
    return text


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

    def served(self, event: dict[str, Any], agent: dict[str, Any] | None) -> str:
        who = _short(event.get("agentId", ""))
        where = f" (pid {agent['pid']} on {agent['node']})" if agent and agent.get("pid") else ""
        if self.lost is not None:
            later = event["at"] - self.lost
            return f"{who}{where} took over {f'after {later:.3f} s' if later else 'at once: it was warm'}."
        if self.asked is None and self.queued is None:
            return f"A warm agent was there at once: {who}{where}."
        first = self.asked if self.queued is None else self.queued
        assert first is not None
        waited = f"after {event['at'] - first:.3f} s"
        if self.queued is not None and self.asked is not None:
            waited += f", {self.asked - self.queued:.3f} s of them in line"
        return f"It got an agent {waited}: {who}{where}."

    def joined(self, at: float) -> str:
        if self.lost is None:
            return ""
        who = "The user" if self.began else "The room"
        return f" {who} was without an agent for {at - self.lost + self.unheard:.3f} s."

    def unserved(self, at: float) -> str:
        return f" There had been no agent for {at - self.lost + self.unheard:.3f} s." if self.lost is not None else ""


def _end(state: str, reason: Reason | None) -> str:
    if reason is None:
        told = "nobody said why"
    elif reason.row is None or not reason.row.sentence:
        told = reason.words
    else:
        told = reason.row.sentence + (f" ({reason.facts})" if reason.facts else "")
    return f"{'It ended' if state == 'ended' else 'It failed'}: {told}."


def _log_of(event: dict[str, Any]) -> str:
    """Name the command that tells more of a boot that failed."""
    return f" See: orchestrator logs {event['failedAgentId']}" if event.get("failedAgentId") else ""


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
