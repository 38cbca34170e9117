"""The parts of the Lua scripts that are generated from Python, so that no table and no constant is written twice."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from orchestrator import reasons
from orchestrator.config.calls import CallSettings
from orchestrator.models import id_prefix
from orchestrator.states import (
    AGENT_ROWS,
    BUSY_AGENT_STATES,
    LEAVE_MS,
    LIVE_SESSION_STATES,
    SESSION_ROWS,
    Deadline,
    Row,
)
from orchestrator.store import constants, histograms
from orchestrator.store.prefixed import SPANS

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


def _lookup(function: str, values: Mapping[str, Value]) -> str:
    """A function that returns one of many values: no call of a script builds the table unless it needs one."""
    return f"local function {function}(name) return ({literal(values)})[name] end\n"


def _members(names: Iterable[str]) -> dict[str, Value]:
    return {str(name): True for name in sorted(names)}


def _given(**fields: Value | None) -> dict[str, Value]:
    """Return the fields that are set, because each run of a script builds these tables."""
    return {name: value for name, value in fields.items() if value}


def _deadline(each: Deadline) -> Value:
    return _given(
        kind=each.kind, policy=each.policy, ms=each.more_ms, keeps=each.keeps, after=each.after, before=each.before,
        since=each.since,
    )  # fmt: skip


def _row(row: Row) -> Value:
    # One string costs less than a table; spaces on both sides of each name make it found whole.
    moves = f" {' '.join(sorted(row.moves))} " if row.moves else ""
    return _given(
        moves=moves, begins=row.begins, sets=row.sets, leaves=row.leaves, queue=row.queue,
        nodeSet=row.node_set, deadlines=[_deadline(each) for each in row.deadlines], clears=row.clears,
        forgets=row.forgets, timestamp=row.timestamp, counts=row.counts,
    )  # fmt: skip


def _reads(rows: Mapping[Any, Row]) -> list[str]:
    """Return the fields of a record on which the effects of a move depend."""
    names = {name for row in rows.values() for d in row.deadlines for name in (d.after, d.before, d.since) if name}
    names |= {"createdAt"} if any(row.queue for row in rows.values()) else set()
    return sorted(names | ({"node"} if any(row.node_set for row in rows.values()) else set()))


def _rows(function: str, rows: Mapping[Any, Row]) -> str:
    """A function that returns one row: a run of a script builds those alone that it needs."""
    cases = (f"if state=='{state}' then return {literal(_row(row))} end\n" for state, row in rows.items())
    return f"local function {function}(state)\n{''.join(cases)}end\n"


def _codes(wanted: Callable[[reasons.Row], bool]) -> list[str]:
    return [code for code, row in reasons.table().reasons.items() if wanted(row)]


def _reason(row: reasons.Row) -> str:
    """Return a reason as a constant: whole where its text names no parameter (see lib/reasons.lua)."""
    text = ": ".join(filter(None, (row.text_prefix, row.text))) or row.code
    value: Value = {"code": row.code, "text": text, "params": {}}
    return _local(**{row.code.upper(): value})


def key_positions() -> str:
    """Return the commands that lib/prefix.lua knows, by where their keys are."""
    first = [name for name, span in SPANS.items() if span == (0, 1)]
    return _local(FIRST=_members(first), MANY=_members(name for name, span in SPANS.items() if span == (0, None)))


#: What scripts and libraries may include beside the files in lua/lib.
GENERATED: dict[str, Callable[[], str]] = {
    "session_rows": lambda: _rows("session_row", SESSION_ROWS),
    "agent_rows": lambda: _rows("agent_row", AGENT_ROWS),
    "reads": lambda: _local(READS={"session": _reads(SESSION_ROWS), "agent": _reads(AGENT_ROWS)}),
    "busy_agent": lambda: _local(BUSY=_members(BUSY_AGENT_STATES)),
    "live_session": lambda: _local(LIVE_SESSION=_members(LIVE_SESSION_STATES)),
    "histogram_bounds": lambda: _local(HISTOGRAM_BOUNDS=histograms.BOUNDS),
    "recent_samples": lambda: _local(RECENT_SAMPLES=histograms.RECENT),
    "policy_defaults": lambda: _lookup("policy_default", CallSettings.model_construct().policy | {"alert_webhooks": 0}),
    "failure_codes": lambda: _local(FAILURE_CODES=_members(_codes(lambda row: row.kind == "failure"))),
    "boot_codes": lambda: _local(BOOT_CODES=_members(_codes(lambda row: row.booting))),
    "leave_ms": lambda: _local(LEAVE_MS=LEAVE_MS),
    "late_node": lambda: _local(LATE_NODE_MS=constants.LATE_NODE_MS),
    "breaker_failures": lambda: _local(BREAKER_FAILURES=constants.BREAKER_FAILURES),
    "failing_codes": lambda: _local(FAILING_CODES=_members(_codes(lambda row: row.failing))),
    "failing_calls_limit": lambda: _local(FAILING_CALLS=constants.FAILING_CALLS),
    "arrival_bucket": lambda: _local(ARRIVAL_BUCKET_SECONDS=constants.ARRIVAL_BUCKET_SECONDS),
    "session_id_start": lambda: _local(SESSION_ID_START=id_prefix("session")),
    "wake_seconds": lambda: _local(WAKE_SECONDS=constants.WAKE_SECONDS),
    **{f"reason_{code}": partial(_reason, row) for code, row in reasons.table().reasons.items()},
}
