"""The state tables as Markdown, for docs/states.md."""

from collections.abc import Mapping

from orchestrator.states import AGENT_ROWS, SESSION_ROWS, AgentState, Deadline, Row, SessionState


def _length(deadline: Deadline) -> str:
    parts = [f"`{name}`" for name in deadline.policy]
    if deadline.more_ms:
        parts.append(f"{deadline.more_ms / 1000:g} s")
    text = f"`{deadline.kind}` {' + '.join(parts)}"
    if deadline.since:
        text += f" from `{deadline.since}`"
    if deadline.after:
        text += f", with `{deadline.after}`"
    if deadline.before:
        text += f", without `{deadline.before}`"
    return text + (", unless it runs" if deadline.keeps else "")


def _ticked(names: tuple[str, ...]) -> str:
    return " ".join(f"`{name}`" for name in names)


def table(rows: Mapping[SessionState, Row] | Mapping[AgentState, Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = ["| state | next | in | deadlines set | cleared | time | counted |", "|---|---|---|---|---|---|---|"]
    for state, row in rows.items():
        where = (*row.sets, *((row.queue,) if row.queue else ()))
        where += (f"node:{{node}}:{row.node_set}",) if row.node_set else ()
        following = tuple(each for each in rows if each in row.moves)
        cells = (
            f"`{state}`",
            _ticked(following),
            _ticked(where),
            "; ".join(map(_length, row.deadlines)),
            _ticked(row.clears),
            f"`{row.timestamp}`",
            f"`{row.counts}`" if row.counts else "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables() -> str:
    """Return both tables."""
    return f"Sessions:\n\n{table(SESSION_ROWS)}\n\nAgents:\n\n{table(AGENT_ROWS)}"
