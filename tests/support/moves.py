"""The transitions between an agent's states, from the state table."""

from orchestrator.states import AGENT_ROWS, AgentState

AGENT_MOVES: dict[AgentState, frozenset[AgentState]] = {
    state: frozenset(map(AgentState, row.moves)) for state, row in AGENT_ROWS.items()
}
