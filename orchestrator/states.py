"""The legal states of sessions and agents and the moves between them.

This module imports the standard library only: everything else may depend on it. The Lua scripts get these tables
when they are loaded (store/generated.py), so that the store refuses the same moves that are refused here.
Edges are explained in docs/states.md.
"""

from enum import StrEnum


class SessionState(StrEnum):
    """Where a session stands."""

    QUEUED = "queued"  #: in the waiting line, no capacity yet
    STARTING = "starting"  #: an agent is being started for it
    READY = "ready"  #: an agent is bound to it
    ACTIVE = "active"  #: user and agent are both in the room
    ENDED = "ended"  #: over, as it should be
    ERROR = "error"  #: over, with a reason that names what failed


class AgentState(StrEnum):
    """Where an agent process stands."""

    STARTING = "starting"  #: announced, its process is being started or is booting
    READY = "ready"  #: warm: blocks on its inbox, in `pool:ready`
    ASSIGNED = "assigned"  #: bound to a session, on its way into the room
    RUNNING = "running"  #: in the room
    STOPPING = "stopping"  #: leaving, or told to
    EXITED = "exited"  #: its process is gone


SESSION_MOVES: dict[SessionState, frozenset[SessionState]] = {
    SessionState.QUEUED: frozenset({SessionState.STARTING, SessionState.ENDED, SessionState.ERROR}),
    SessionState.STARTING: frozenset({SessionState.READY, SessionState.ENDED, SessionState.ERROR}),
    # READY -> STARTING: the bound agent died before the call began and no warm one was left.
    SessionState.READY: frozenset({SessionState.STARTING, SessionState.ACTIVE, SessionState.ENDED, SessionState.ERROR}),
    # ACTIVE -> STARTING: its agent died in the call; another one takes over.
    SessionState.ACTIVE: frozenset({SessionState.STARTING, SessionState.ENDED, SessionState.ERROR}),
    SessionState.ENDED: frozenset(),
    SessionState.ERROR: frozenset(),
}

AGENT_MOVES: dict[AgentState, frozenset[AgentState]] = {
    # STARTING -> ASSIGNED: a session was already waiting when the agent became ready.
    AgentState.STARTING: frozenset({AgentState.READY, AgentState.ASSIGNED, AgentState.STOPPING, AgentState.EXITED}),
    AgentState.READY: frozenset({AgentState.ASSIGNED, AgentState.STOPPING, AgentState.EXITED}),
    AgentState.ASSIGNED: frozenset({AgentState.RUNNING, AgentState.STOPPING, AgentState.EXITED}),
    AgentState.RUNNING: frozenset({AgentState.STOPPING, AgentState.EXITED}),
    AgentState.STOPPING: frozenset({AgentState.EXITED}),
    AgentState.EXITED: frozenset(),
}

LIVE_SESSION_STATES = frozenset(state for state, moves in SESSION_MOVES.items() if moves)
