"""What callers are told: fixed sentences by code. The operator's words, as exceptions and addresses, are not theirs.

A caller is whoever does not show ADMIN_TOKEN: a browser, the backend that holds an api key, nobody at all. What has no
code in reasons.toml is told as the most general thing, so that a new text of the operator's reaches no caller either.
docs/errors.md lists the sentences.
"""

from typing import Any

from orchestrator import reasons
from orchestrator.api.schemas.base import why
from orchestrator.reasons import OTHER, Reason, because

#: What /api/health tells callers of, when it is so.
WARNINGS = {code: row.caller for code, row in reasons.table().warnings.items() if row.caller}


def problem(code: str) -> str:
    """Return what a caller is told of an error whose `detail` is not about the request (errors.py)."""
    rows = reasons.table().problems
    return (code in rows and rows[code].caller) or rows["internal_error"].caller


def reason(text: str | None, code: str | None, params: dict[str, Any] | None) -> dict[str, Any]:
    """Return the fields that tell a caller why a session is over."""
    return why("reason", _for_callers(text, code, params))


def cause(text: str | None, code: str | None, params: dict[str, Any] | None) -> dict[str, Any]:
    """Return the fields that tell a caller why an agent was replaced, or how it ended."""
    reason_shown = _for_callers(text, code, params)
    return why(
        "cause",
        reasons.for_callers(because("agent_lost")) if reason_shown and reason_shown.code == OTHER else reason_shown,
    )


def _for_callers(text: str | None, code: str | None, params: dict[str, Any] | None) -> Reason | None:
    # guard: reason-code
    return reasons.for_callers(Reason(code or "", params or {}, text)) if text else None
