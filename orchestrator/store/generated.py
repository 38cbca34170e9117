"""The parts of the Lua scripts that are generated from Python, so that no table and no constant is written twice."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.config.calls import CallSettings
from orchestrator.states import AGENT_MOVES, LIVE_SESSION_STATES, SESSION_MOVES
from orchestrator.store import constants, histograms

Value = str | float | Sequence["Value"] | Mapping[str, "Value"]


def literal(value: Value) -> str:
    """Return a value as Lua writes it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
        case Mapping():
            return "{" + ",".join(f"[{literal(name)}]={literal(each)}" for name, each in value.items()) + "}"
        case Sequence():
            return "{" + ",".join(map(literal, value)) + "}"
    return str(value)


def _local(**values: Value) -> str:
    return "".join(f"local {name}={literal(value)}\n" for name, value in values.items())


def _members(names: Iterable[str]) -> dict[str, Value]:
    return {str(name): True for name in sorted(names)}


def _moves(moves: Mapping[Any, Iterable[str]]) -> dict[str, Value]:
    return {str(state): _members(targets) for state, targets in moves.items()}


#: What scripts and libraries may include beside the files in lua/lib.
GENERATED: dict[str, Callable[[], str]] = {
    "session_moves": lambda: _local(SESSION_MOVES=_moves(SESSION_MOVES)),
    "agent_moves": lambda: _local(AGENT_MOVES=_moves(AGENT_MOVES)),
    "live_session": lambda: _local(LIVE_SESSION=_members(LIVE_SESSION_STATES)),
    "histogram_bounds": lambda: _local(HISTOGRAM_BOUNDS=histograms.BOUNDS),
    "recent_samples": lambda: _local(RECENT_SAMPLES=histograms.RECENT),
    "policy_defaults": lambda: _local(POLICY_DEFAULTS=CallSettings.model_construct().policy | {"webhooks": 0}),
    "found_dead": lambda: _local(FOUND_DEAD=constants.FOUND_DEAD),
    "late_node": lambda: _local(LATE_NODE_MS=constants.LATE_NODE_MS),
    "wake_seconds": lambda: _local(WAKE_SECONDS=constants.WAKE_SECONDS),
}
