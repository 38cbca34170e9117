"""What the store returns, where it is no session and no agent."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.models import Agent, Session


@dataclass(frozen=True, slots=True)
class Assignment:
    """What `assign` decided (see assign.lua)."""

    outcome: str
    session_id: str
    detail: str  #: limited: ms after which to try again; broken: the cause
    refill: bool  #: the caller must queue a refill
    agent_id: str = ""
    node: str = ""  #: where the assigned agent lives, and as which process
    pid: int = 0
    start_ticks: int = 0


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
    most: int
    refusal: str  #: why a job would not be served now, '' when it would: an outcome of `assign`
    detail: str


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
    """What a missed deadline leaves to do: stop an agent, close, make or look at a session's room, refill, compare all
    rooms, or send an alert."""

    what: str
    id: str
    node: str


@dataclass(frozen=True, slots=True)
class Breaker:
    """How boots go: `closed` when the last one worked, `open` after five failures in a row, `half-open` while one is
    tried."""

    state: str
    failures: int = 0
    cause: str | None = None
    retry_seconds: float = 0.0  #: until the next attempt
    agent: str | None = None  #: whose boot failed last


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What Redis says of sessions and agents. Lists of ids are by the name of their key."""

    now: float
    policy: Mapping[str, float]
    nodes: frozenset[str]
    sessions: Mapping[str, Session]
    agents: Mapping[str, Agent]
    lists: Mapping[str, frozenset[str]]
    deadlines: frozenset[tuple[str, str]]  #: (kind, id)
    broken: frozenset[str]  #: keys of records that cannot be read
    private: frozenset[tuple[str, str]]  #: (session id, `payload` or `conversation`) of each that is kept
    counted: frozenset[str]  #: live sessions that count against their user's cap
    rooms: Mapping[str, str | None]  #: the session that is found by the room, for each live session's room


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """How much memory Redis uses, in bytes; 0 and '' where it does not say."""

    used: int = 0
    most: int = 0  #: its `maxmemory`; 0: none is set
    policy: str = ""  #: what it does when that is reached
    machine: int = 0  #: what its machine has
