"""The states of sessions and agents, and for each what entering it means: one row.

A row names the legal next states, the lists in Redis that hold the records in the state, the deadlines that begin and
end with it, the field that gets its time, and the counter. This module imports the standard library only: everything
else may depend on it. The Lua scripts get the rows when they are loaded (store/generated.py), and every move goes
through store/lua/lib/enter.lua, which reads them. docs/states.md shows the rows and explains the edges.
"""

from dataclasses import dataclass
from enum import StrEnum


class SessionState(StrEnum):
    """The states of a session."""

    QUEUED = "queued"  #: in the waiting line, no capacity yet
    STARTING = "starting"  #: an agent is being started for it
    READY = "ready"  #: an agent is bound to it
    ACTIVE = "active"  #: user and agent are both in the room
    ENDED = "ended"  #: over, as it should be
    ERROR = "error"  #: over, with a reason that names what failed


class AgentState(StrEnum):
    """The states of an agent process."""

    STARTING = "starting"  #: announced, its process is being started or is booting
    READY = "ready"  #: warm: blocks on its inbox, in `pool:ready`
    ASSIGNED = "assigned"  #: bound to a session, on its way into the room
    RUNNING = "running"  #: in the room
    STOPPING = "stopping"  #: leaving, or asked to leave
    EXITED = "exited"  #: its process is gone


@dataclass(frozen=True, slots=True)
class Deadline:
    """A deadline that a state sets: after the sum of some settings, all of them seconds, and of a constant."""

    kind: str
    policy: tuple[str, ...] = ()  #: settings of the policy
    more_ms: int = 0
    keeps: bool = False  #: one that runs already stays as it is
    after: str | None = None  #: only in records that have this field
    before: str | None = None  #: only in records that do not have it
    since: str | None = None  #: it is counted from the time in this field, not from now


@dataclass(frozen=True, slots=True)
class Row:
    """One state."""

    moves: frozenset[str] = frozenset()  #: legal next states; none: it is an end
    begins: bool = False  #: a record may begin in it
    sets: tuple[str, ...] = ()  #: sets of the ids that are in it
    queue: str | None = None  #: sorted set of them, in the order in which they are served
    node_set: str | None = None  #: node:{node}:<this>, the set of them on each node
    leaves: tuple[str, ...] = ()  #: sets that it may have been in before
    deadlines: tuple[Deadline, ...] = ()
    clears: tuple[str, ...] = ()  #: kinds of deadlines that end with it
    forgets: tuple[str, ...] = ()  #: fields of the record that belong to the states before
    timestamp: str | None = None  #: field with the time at which it was entered first
    counts: str | None = None  #: field of pool:stats


S, A = SessionState, AgentState
_OVER = {S.ENDED, S.ERROR}
#: Seconds until the room of an ended session is deleted: the agent's last words are still in transit.
CLOSE_MS = 1500
#: An agent that no node has claimed by then lost its spawn task; the claim allows its boot more.
CLAIM_MS = 5000
#: Seconds beyond its own limit after which its node stops an agent that was asked to leave.
LEAVE_MS = 2500


def _session_end(counts: str) -> Row:
    return Row(
        deadlines=(Deadline("close", more_ms=CLOSE_MS, after="agentIds"),),
        clears=("queue", "start", "join", "user", "gone", "max", "goodbye", "job", "look", "room"),
        forgets=("doubt",),
        timestamp="endedAt",
        counts=counts,
    )


SESSION_ROWS: dict[SessionState, Row] = {
    S.QUEUED: Row(
        moves=frozenset({S.STARTING, *_OVER}),
        begins=True,
        queue="session:queued",
        deadlines=(Deadline("queue", ("queue_seconds",)),),
        timestamp="createdAt",
    ),
    S.STARTING: Row(
        moves=frozenset({S.READY, *_OVER}),
        begins=True,
        sets=("session:starting",),
        queue="session:unbound",
        deadlines=(Deadline("start", ("start_timeout_seconds",)),),
        # The goodbye was for the lost agent, whose node stops; the next agent may be on another.
        clears=("queue", "join", "goodbye", "room"),
        forgets=("doubt", "refused", "agentId", "agentPid", "node"),
        timestamp="createdAt",
    ),
    S.READY: Row(
        # READY -> STARTING: the bound agent died before the call began and no warm one was left.
        moves=frozenset({S.STARTING, S.ACTIVE, *_OVER}),
        begins=True,
        sets=("session:ready",),
        deadlines=(
            Deadline("join", ("join_timeout_seconds",)),
            Deadline("user", ("user_join_seconds",), keeps=True, before="activeAt"),
            Deadline("gone", ("join_timeout_seconds", "user_gone_seconds"), keeps=True, after="activeAt"),
        ),
        clears=("start",),
        forgets=("doubt",),
        timestamp="readyAt",
        counts="total_assigned",
    ),
    S.ACTIVE: Row(
        # ACTIVE -> STARTING: its agent died in the call; another one takes over.
        moves=frozenset({S.STARTING, *_OVER}),
        begins=True,
        sets=("session:active",),
        deadlines=(Deadline("max", ("max_session_seconds",), keeps=True, since="activeAt"),),
        # A running call does not end because LiveKit has not confirmed its job.
        clears=("join", "user", "gone", "job"),
        forgets=("doubt",),
        timestamp="activeAt",
    ),
    S.ENDED: _session_end("total_ended"),
    S.ERROR: _session_end("total_errors"),
}

_BEAT = Deadline("beat", ("heartbeat_timeout_seconds",))
AGENT_ROWS: dict[AgentState, Row] = {
    A.STARTING: Row(
        # STARTING -> ASSIGNED: a session was already waiting when the agent became ready.
        moves=frozenset({A.READY, A.ASSIGNED, A.STOPPING, A.EXITED}),
        begins=True,
        sets=("agents", "pool:starting"),
        deadlines=(Deadline("boot", more_ms=CLAIM_MS),),
        timestamp="createdAt",
    ),
    A.READY: Row(
        moves=frozenset({A.ASSIGNED, A.STOPPING, A.EXITED}),
        sets=("agents", "pool:ready"),
        node_set="warm",
        deadlines=(_BEAT,),
        clears=("boot",),
        timestamp="readyAt",
    ),
    A.ASSIGNED: Row(
        moves=frozenset({A.RUNNING, A.STOPPING, A.EXITED}),
        sets=("agents",),
        node_set="busy",
        leaves=("pool:stale",),
        deadlines=(_BEAT,),
        clears=("boot",),
        timestamp="assignedAt",
    ),
    A.RUNNING: Row(
        moves=frozenset({A.STOPPING, A.EXITED}),
        sets=("agents",),
        node_set="busy",
        deadlines=(_BEAT,),
        timestamp="joinedAt",
    ),
    A.STOPPING: Row(
        moves=frozenset({A.EXITED}),
        sets=("agents",),
        leaves=("pool:stale",),
        deadlines=(Deadline("stop", ("stop_grace_seconds",), more_ms=LEAVE_MS),),
        clears=("boot", "beat"),
        timestamp="stoppingAt",
    ),
    A.EXITED: Row(leaves=("pool:stale",), clears=("boot", "beat", "stop"), timestamp="exitedAt"),
}

SESSION_MOVES: dict[SessionState, frozenset[SessionState]] = {
    state: frozenset(map(SessionState, row.moves)) for state, row in SESSION_ROWS.items()
}
LIVE_SESSION_STATES = frozenset(state for state, moves in SESSION_MOVES.items() if moves)
#: Agents in these states have a session.
BUSY_AGENT_STATES = frozenset(state for state, row in AGENT_ROWS.items() if row.node_set == "busy")
