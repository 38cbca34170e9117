"""What callers are told: fixed sentences by code. The operator's words, as exceptions and addresses, are not theirs.

A caller is whoever does not show ADMIN_TOKEN: a browser, the backend that holds an api key, nobody at all. Whatever is
not in these tables is told as the most general thing, so that a new text of the operator's reaches no caller either.
docs/errors.md lists them.
"""

import re

from orchestrator import reasons

_TABLE = reasons.table()
#: By the code of an error whose `detail` is not about the request (errors.py). The docstring there is the operator's.
PROBLEMS = {code: row.caller for code, row in _TABLE.problems.items() if row.caller}
#: By the code that stands before the colon of a session's reason. These sessions have failed.
REASONS = {code: row.caller for code, row in _TABLE.reasons.items() if row.kind == "failure" and row.caller}
#: A session of which nothing else may be told.
OTHER = reasons.for_callers(reasons.words("")).recorded

#: How sessions end as they should. In our own words, in which nothing is the operator's: told as they are.
ENDS = (
    "stopped by request",  # of nobody that we know: the api is open
    "stopped by request of the caller",
    "stopped by request of the backend",
    "stopped by request of an operator",
    "the agent hung up",
    "the connection of the user was lost",
    "the node is stopping",
    "user did not join within {} s",
    "user was gone for {} s",
    "maximum length of {} s reached",
)
#: The same, of which the words are the operator's: what callers are told instead.
RENAMED = {
    "the user sent more data than AGENT_DATA_MB allows": "too_much_data: The call's page sent more data than it may.",
    "LiveKit has ended its dispatch": "call_withdrawn: Whoever asked for the call has withdrawn it.",
    "room closed": "room_closed: The room was closed.",
}
_AS_IT_IS = re.compile("|".join(re.escape(end).replace(r"\{\}", r"\d+(\.\d+)?") for end in ENDS))

#: What /api/health tells callers of, when it is so.
WARNINGS = _TABLE.warnings


def problem(code: str) -> str:
    """Return what a caller is told of an error."""
    return PROBLEMS.get(code, PROBLEMS["internal_error"])


def reason(text: str) -> str:
    """Return what a caller is told of why a session is over: words of ours, or `code: a fixed sentence`."""
    if _AS_IT_IS.fullmatch(text):
        return text
    kind = text.partition(": ")[0]
    if kind in REASONS:
        # guard: reason-code
        return f"{kind}: {REASONS[kind]}"
    return RENAMED.get(text.partition(" (")[0], OTHER)


def cause(text: str) -> str:
    """Return what a caller is told of why an agent was replaced, or how it ended."""
    if text in {"", "exited with code 0"}:
        return text
    told = reason(text)
    return f"agent_lost: {REASONS['agent_lost']}" if told == OTHER else told
