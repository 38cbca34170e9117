"""The store's other records and results: everything but sessions and agents."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from orchestrator.reasons import Reason


@dataclass(frozen=True, slots=True)
class Assignment:
    """What `assign` decided (see assign.lua)."""

    outcome: str
    session_id: str
    detail: str  #: full, many: what there is none of (a code); limited: ms to wait; broken, livekit: the cause
    refill: bool  #: the caller must queue a refill
    agent_id: str = ""
    node: str = ""  #: where the assigned agent lives, and as which process
    pid: int = 0
    start_ticks: int = 0
    shortage: str = ""  #: full for `memory`: what is short


@dataclass(frozen=True, slots=True)
class DispatchRef:
    """A LiveKit job, its dispatch, and the node whose worker connection took it."""

    id: str
    dispatch_id: str
    node: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """How full we are (see capacity.lua)."""

    live: int
    max_sessions: int
    refusal: str  #: why a job would not be served now, '' when it would: an outcome of `assign`
    detail: str  #: as of an `Assignment`, and so is the shortage
    shortage: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A session that is over."""

    first: bool  #: this call ended it
    status: str


@dataclass(frozen=True, slots=True)
class Exit:
    """What an agent's exit meant: session concerned, what became of it, the agent's state before."""

    session_id: str | None
    outcome: str  #: '' | replaced | waiting | error
    before: str


@dataclass(frozen=True, slots=True)
class Action:
    """An action after a missed deadline: stop an agent, close, create or check a session's room, refill, compare all
    rooms, or send an alert."""

    what: str
    id: str
    node: str


@dataclass(frozen=True, slots=True)
class Breaker:
    """The circuit breaker of agent boots: `closed` after a boot that worked, `open` after five failures in a row,
    `half-open` while one boot is tried."""

    state: str
    failures: int = 0
    cause: Reason | None = None
    retry_seconds: float = 0.0  #: until the next attempt
    agent: str | None = None  #: whose boot failed last

    @classmethod
    def from_hash(cls, fields: Mapping[str, str], *, now: float, booting: bool) -> Self:
        """Build from the fields of `pool:breaker`; `booting`: an agent is being started."""
        if not fields.get("failures"):
            return cls("closed")
        remaining = int(fields.get("nextAt", 0)) / 1000 - now
        state = "closed"
        if "openedAt" in fields:
            state = "open" if remaining > 0 and not booting else "half-open"
        return cls(state, int(fields["failures"]), _last_boot(fields), max(0.0, remaining), fields.get("agent"))


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its `node:{id}` hash, what runs on it, and whether it drains. Times are Unix seconds."""

    id: str
    last_beat: int | None = None  #: None: its record has expired, the node is gone
    pid: int | None = None  #: of its Celery worker
    boot_id: str = ""
    host: bool = False  #: its agent host is connected
    host_warning: str = ""
    canary_age: int = 0  #: seconds since its Celery worker last took a task
    version: str | None = None
    incarnation: str = ""  #: of its Celery worker
    twin: bool = False  #: another node has the same id
    max_sessions: int = 0  #: NODE_SESSIONS; 0: no bound of its own
    spare_bytes: int | None = None
    goodbye_ms: int | None = None  #: while it drains
    restarted: str = ""  #: which of its programs were restarted often
    serves: Mapping[str, str] = field(default_factory=dict)  #: settings that nodes of one orchestrator share
    strangers: str = ""  #: other programs that were seen in its queues
    draining: bool = False
    memory_shortage: str | None = None  #: why it starts no agent
    warm: int = 0  #: its warm agents
    busy: int = 0  #: its agents that have a session
    agents: int = 0  #: its living agents
    closing: int = 0  #: sessions that it served and whose room is still to be deleted

    @property
    def alive(self) -> bool:
        """Whether its record is there."""
        return self.last_beat is not None

    @classmethod
    def from_hash(cls, node_id: str, fields: Mapping[str, str]) -> Self:
        """Build from the fields of a `node:{id}` hash, {} when there is none."""
        return cls(
            id=node_id,
            last_beat=(_number(fields.get("lastBeat")) or 0) if fields else None,
            pid=_number(fields.get("pid")),
            boot_id=fields.get("bootId", ""),
            host=fields.get("host") == "1",
            host_warning=fields.get("hostWarning", ""),
            canary_age=_number(fields.get("canaryAge")) or 0,
            version=fields.get("version"),
            incarnation=fields.get("life", ""),
            twin=fields.get("twin") == "1",
            max_sessions=_number(fields.get("sessions")) or 0,
            spare_bytes=_number(fields.get("spareBytes")),
            goodbye_ms=_number(fields.get("goodbyeMs")),
            restarted=fields.get("restarted", ""),
            serves=_object(fields.get("serves")),
            strangers=fields.get("strangers", ""),
        )


@dataclass(frozen=True, slots=True)
class Registration:
    """One `door:{id}` hash: how an api process is registered with LiveKit as a worker."""

    node: str
    agent_name: str
    registered: bool
    since: int  #: Unix seconds
    worker_id: str
    jobs: int  #: that it follows
    full: str  #: why it takes no job now; '' when it does
    error: str

    @classmethod
    def from_hash(cls, fields: Mapping[str, str]) -> Self:
        """Build from the fields of a `door:{id}` hash."""
        return cls(
            node=fields.get("node", ""),
            agent_name=fields.get("agentName", ""),
            registered=fields.get("registered") == "1",
            since=_number(fields.get("since")) or 0,
            worker_id=fields.get("workerId", ""),
            jobs=_number(fields.get("jobs")) or 0,
            full=fields.get("full", ""),
            error=fields.get("error", ""),
        )


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One `agent:{id}:health` hash: what the last health check of an agent found."""

    status: str | None = None
    memory_bytes: int | None = None

    @classmethod
    def from_hash(cls, fields: Mapping[str, str]) -> Self:
        """Build from the fields of an `agent:{id}:health` hash, {} when there is none."""
        return cls(fields.get("status"), _number(fields.get("memory_bytes")))


@dataclass(frozen=True, slots=True)
class Activity:
    """What happened lately."""

    events: Sequence[tuple[str, Mapping[str, str]]]  #: entries of the stream of all events, oldest first
    session_ids: Sequence[str]  #: of the newest sessions, newest first
    starts: Sequence[tuple[float, float]]  #: (Unix time, seconds that it took) of the newest starts, oldest first


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """How much memory Redis uses, in bytes; 0 and '' where it does not say."""

    used: int = 0
    limit: int = 0  #: its `maxmemory`; 0: none is set
    policy: str = ""  #: what it does when that is reached
    machine_total: int = 0  #: what its machine has


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _object(text: str | None) -> dict[str, str]:
    with contextlib.suppress(ValueError):
        value = json.loads(text or "{}")
        if isinstance(value, dict):
            return {str(name): str(each) for name, each in value.items()}
    return {}


def _last_boot(fields: Mapping[str, str]) -> Reason | None:
    """Return why the boot before the breaker's pause failed. During a deploy the release before writes no code."""
    cause = Reason.recorded_as(fields, "cause")
    if cause is not None and cause.params.get("agentId") != fields.get("agent"):
        return Reason("", {}, cause.recorded)
    return cause
