"""The state tables: final states have no transitions, and all others can be reached and left."""

from orchestrator import states
from orchestrator.settings import Settings
from orchestrator.states import AGENT_ROWS, SESSION_MOVES, SESSION_ROWS, AgentState, SessionState
from orchestrator.store.generated import GENERATED
from tests.support.model import dump, promises
from tests.support.moves import AGENT_MOVES


def test_final_states_have_no_transitions() -> None:
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


def test_lua_has_the_same_tables() -> None:
    moves = "['moves']=' active ended error starting '"
    assert f"if state=='ready' then return {{{moves}," in GENERATED["session_rows"]()
    assert "if state=='exited' then return {['leaves']={'pool:stale'}," in GENERATED["agent_rows"]()


def test_every_deadline_that_a_state_sets_is_cleared_by_its_ends() -> None:
    for rows in (SESSION_ROWS, AGENT_ROWS):
        ends = [row for row in rows.values() if not row.moves]
        set_by_live = {each.kind for row in rows.values() if row.moves for each in row.deadlines}
        for row in ends:
            assert set_by_live <= set(row.clears)


def test_every_duration_is_in_the_policy() -> None:
    names = {name for row in (*SESSION_ROWS.values(), *AGENT_ROWS.values()) for d in row.deadlines for name in d.policy}
    assert names <= Settings.model_construct().policy.keys()


def test_each_state_has_the_deadlines_of_the_expected_table() -> None:
    """The expectation is written by hand, because the invariants derive theirs from the rows, with any mistakes."""
    assert {state: {each.kind for each in row.deadlines} for state, row in SESSION_ROWS.items() if row.moves} == {
        "queued": {"queue"}, "starting": {"start"}, "ready": {"join", "user", "gone"}, "active": {"max"},
    }  # fmt: skip
    assert {state: {each.kind for each in row.deadlines} for state, row in AGENT_ROWS.items() if row.moves} == {
        "starting": {"boot"}, "ready": {"beat"}, "assigned": {"beat"}, "running": {"beat"}, "stopping": {"stop"},
    }  # fmt: skip


def test_no_deadline_is_longer_than_the_model_allows() -> None:
    for kind, longest in promises.LONGEST.items():
        for deadline in (each for row in (*SESSION_ROWS.values(), *AGENT_ROWS.values()) for each in row.deadlines):
            if deadline.kind == kind:
                assert sum(dump.WAITS[name] for name in deadline.policy) + deadline.more_ms <= longest
