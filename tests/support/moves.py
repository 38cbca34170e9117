"""The moves between the states of an agent, from the table of its states."""

from orchestrator.states import AGENT_ROWS, AgentState

AGENT_MOVES: dict[AgentState, frozenset[AgentState]] = {
    state: frozenset(map(AgentState, row.moves)) for state, row in AGENT_ROWS.items()
}
