"""The records of sessions and agents, and their ids. No I/O."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import StringConstraints

from orchestrator.reasons import Reason
from orchestrator.states import LIVE_SESSION_STATES, AgentState, SessionState

ID_PATTERN = r"^(prewarm|session)_[0-9a-f]{32}$"
#: The rooms that we name. Only the user and the agent are in them.
ROOM_PATTERN = r"room_[0-9a-f]{32}"
#: Turns of a conversation that are kept for a takeover.
TURNS = 50
SessionId = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
UserId = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]

#: User ids of sessions that a LiveKit job requested: made from the room. No caller may use one.
JOB_USERS = r"(room:|room-sha256:|user-[0-9a-f]{32}$)"


def new_id(kind: str) -> str:
    """Return `<kind>_<128 random bits in hex>`; `kind` is `prewarm`, `session` or `room`."""
    return f"{id_prefix(kind)}{secrets.token_hex(16)}"


def id_prefix(kind: str) -> str:
    """Return what the ids of a kind begin with."""
    return f"{kind}_"


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _seconds(milliseconds: str | None) -> float | None:
    return int(milliseconds) / 1000 if milliseconds else None


@dataclass(frozen=True, slots=True)
class Session:
    """One `session:{id}` hash. Times are Unix seconds by Redis's clock."""

    id: str
    status: SessionState
    user_id: str
    room_name: str
    created_at: float
    prewarmed: bool = False
    agent_id: str | None = None
    agent_ids: tuple[str, ...] = ()  #: all agents that were ever bound to it, the newest last
    agent_pid: int | None = None
    node: str | None = None
    reason: Reason | None = None  #: why it is over
    ready_at: float | None = None
    joined_at: float | None = None  #: the agent joined the room
    active_at: float | None = None  #: user and agent were both in the room
    ended_at: float | None = None
    task_id: str | None = None
    replacements: int = 0  #: how often an agent was replaced before the call began
    takeovers: int = 0  #: how often an agent was replaced in the call
    cause: Reason | None = None  #: why the last agent was replaced
    first_audio_at: float | None = None  #: the agent's first sound
    client: str | None = None  #: the address that requested it
    via: str | None = None  #: `dispatch`: LiveKit requested it, not a client of the API
    job_id: str | None = None  #: LiveKit's job, and the dispatch of the job
    dispatch_id: str | None = None
    dispatch_node: str | None = None  #: the node whose LiveKit worker took the job

    @property
    def printed_by(self) -> tuple[str, ...]:
        """Ids of the agents whose logs belong to it. One that got no agent has the one that was started for it."""
        return self.agent_ids or (self.id,)

    @property
    def live(self) -> bool:
        """Whether the session has not ended."""
        return self.status in LIVE_SESSION_STATES

    @property
    def startup_time(self) -> float | None:
        """Seconds from the start request to a bound agent."""
        return round(self.ready_at - self.created_at, 3) if self.ready_at else None

    @classmethod
    def from_hash(cls, session_id: str, fields: Mapping[str, str]) -> Self:
        """Build from the fields of a `session:{id}` hash."""
        return cls(
            id=session_id,
            status=SessionState(fields["status"]),
            user_id=fields["userId"],
            room_name=fields["roomName"],
            created_at=int(fields["createdAt"]) / 1000,
            prewarmed=fields.get("prewarmed") == "1",
            agent_id=fields.get("agentId"),
            agent_ids=tuple(fields["agentIds"].split(",")) if fields.get("agentIds") else (),
            agent_pid=_number(fields.get("agentPid")),
            node=fields.get("node"),
            reason=Reason.recorded_as(fields, "reason"),
            ready_at=_seconds(fields.get("readyAt")),
            joined_at=_seconds(fields.get("joinedAt")),
            active_at=_seconds(fields.get("activeAt")),
            ended_at=_seconds(fields.get("endedAt")),
            task_id=fields.get("taskId"),
            replacements=int(fields.get("replacements", 0)),
            takeovers=int(fields.get("takeovers", 0)),
            cause=_last_loss(fields),
            first_audio_at=_seconds(fields.get("firstAudioAt")),
            client=fields.get("client") or None,
            via=fields.get("via"),
            job_id=fields.get("jobId"),
            dispatch_id=fields.get("dispatchId"),
            dispatch_node=fields.get("door"),
        )


def _last_loss(fields: Mapping[str, str]) -> Reason | None:
    """Return why the last agent of a session was replaced.

    During a deploy the release before may have replaced a later agent than the code is about: it writes the text alone.
    """
    cause = Reason.recorded_as(fields, "cause")
    last = fields.get("agentIds", "").split(",")[-2:]  # the lost one, and the next where there is one already
    if cause is not None and cause.params.get("agentId") not in last:
        return Reason("", {}, cause.recorded)
    return cause


@dataclass(frozen=True, slots=True)
class Agent:
    """One `agent:{id}` hash. Its process is identified by (node, boot_id, pid, start_ticks)."""

    id: str
    state: AgentState
    node: str | None
    created_at: float
    pid: int | None = None
    start_ticks: int | None = None
    boot_id: str | None = None
    session_id: str | None = None
    spawned_at: float | None = None  #: a node claimed its boot
    ready_at: float | None = None
    last_beat: float | None = None
    stopping_at: float | None = None
    exited_at: float | None = None
    reason: Reason | None = None  #: why it must leave
    cause: Reason | None = None  #: how it ended
    exit_code: int | None = None
    signal: int | None = None
    peak_memory: int | None = None  #: bytes

    @classmethod
    def from_hash(cls, agent_id: str, fields: Mapping[str, str]) -> Self:
        """Build from the fields of an `agent:{id}` hash."""
        return cls(
            id=agent_id,
            state=AgentState(fields["state"]),
            node=fields.get("node"),
            created_at=int(fields["createdAt"]) / 1000,
            pid=_number(fields.get("pid")),
            start_ticks=_number(fields.get("startTicks")),
            boot_id=fields.get("bootId"),
            session_id=fields.get("sessionId"),
            spawned_at=_seconds(fields.get("spawnedAt")),
            ready_at=_seconds(fields.get("readyAt")),
            last_beat=_seconds(fields.get("lastBeat")),
            stopping_at=_seconds(fields.get("stoppingAt")),
            exited_at=_seconds(fields.get("exitedAt")),
            reason=Reason.recorded_as(fields, "reason"),
            cause=Reason.recorded_as(fields, "cause"),
            exit_code=_number(fields.get("exitCode")),
            signal=_number(fields.get("signal")),
            peak_memory=(kib := _number(fields.get("peakMemoryKib"))) and kib * 1024,
        )
