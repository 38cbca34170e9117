"""The state tables: no way out of an end, no state that cannot be reached or left."""

from orchestrator import states
from orchestrator.states import AGENT_MOVES, SESSION_MOVES, AgentState, SessionState
from orchestrator.store.generated import GENERATED


def test_an_end_is_an_end() -> None:
    assert {SessionState.ENDED, SessionState.ERROR} == set(SessionState) - states.LIVE_SESSION_STATES
    assert not AGENT_MOVES[AgentState.EXITED]


def test_every_live_state_can_end() -> None:
    for state in states.LIVE_SESSION_STATES:
        assert {SessionState.ENDED, SessionState.ERROR} <= SESSION_MOVES[state]
    for agent in set(AgentState) - {AgentState.EXITED}:
        assert AgentState.EXITED in AGENT_MOVES[agent]


def test_every_state_can_be_reached() -> None:
    assert {target for moves in SESSION_MOVES.values() for target in moves} == set(SessionState) - {SessionState.QUEUED}
    assert {target for moves in AGENT_MOVES.values() for target in moves} == set(AgentState) - {AgentState.STARTING}


def test_lua_gets_the_same_tables() -> None:
    assert "['ready']={['active']=true,['ended']=true,['error']=true,['starting']=true}" in GENERATED["session_moves"]()
    assert "['exited']={}" in GENERATED["agent_moves"]()
