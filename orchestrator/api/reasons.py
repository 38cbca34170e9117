"""The table of reasons, as pages and clients get it: words for every code that the API answers with."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from orchestrator import reasons
from orchestrator.api.access import Role
from orchestrator.api.dependencies import ServicesDep
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.api.schemas.base import Reply, example
from orchestrator.errors import Unauthorized

router = APIRouter(prefix="/api", tags=["reasons"], responses=PROBLEM_RESPONSES)


class Words(BaseModel):
    """The words for one code."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    kind: str | None = Field(
        default=None,
        description="Of a reason: end (as it should be), failure; for the operator also boot (an agent did not boot), "
        "death (a process ended unbidden), leave (an agent left as it should).",
    )
    caller: str | None = Field(
        default=None, description="The sentence for callers. A problem without one says it in its own `detail`."
    )
    title: str | None = Field(default=None, description="What a page shows its user, in a few words.")
    page: str | None = Field(default=None, description="The same in a sentence.")
    retryable: bool = Field(description="False: the same request cannot succeed later.")
    retry_after: int | None = Field(default=None, description="Seconds after which it may.")
    operator: str | None = Field(default=None, description="For the operator: of a session that failed with it.")
    text: str | None = Field(
        default=None,
        description="For the operator: the facts, `{signal}` and the like standing for `reasonParams`, `{cause}` for "
        "the text of that code.",
    )
    prefix: str | None = Field(default=None, description="For the operator: what stands before that in `reason`.")
    told_as: str | None = Field(default=None, description="For the operator: the code that callers are told instead.")
    remedy: str | None = Field(default=None, description="For the operator: what to do.")


class ReasonsReply(Reply):
    """Words by code."""

    model_config = example(
        success=True, reasons={"agent_lost": {"kind": "failure", "caller": "The agent was lost.", "retryable": True}},
        problems={"draining": {"title": "The service restarts", "retryable": True}}, signals={"9": "SIGKILL"},
    )  # fmt: skip
    reasons: dict[str, Words] = Field(description="By `reasonCode` and `causeCode`.")
    problems: dict[str, Words] = Field(description="By the `code` of a problem.")
    events: dict[str, str] | None = Field(
        default=None, description="For the operator: what happens in a session, by the state of its event."
    )
    signals: dict[str, str] | None = Field(default=None, description="For the operator: signals by their number.")


@router.get("/reasons", summary="Words for every code", response_model_exclude_none=True)
async def words(request: Request, services: ServicesDep) -> ReasonsReply:
    """Return the words for each code that is answered: callers' words for everybody, all of them for the operator.

    It needs no key, and changes with the release alone.
    """
    try:
        role = services.access.caller(request).role
    except Unauthorized:
        role = Role.ANYBODY
    return for_operators() if role is Role.ADMIN else for_callers()


def for_callers() -> ReasonsReply:
    """Return the table without the operator's words. The page with the Talk button is built with it (codes.json)."""
    rows = {code: row for code, row in reasons.table().reasons.items() if not row.told_as}
    return ReasonsReply(
        reasons={code: _words(row) for code, row in rows.items()},
        problems={code: _words(row) for code, row in reasons.table().problems.items()},
    )


def for_operators() -> ReasonsReply:
    """Return the whole table."""
    reply = for_callers()
    for code, row in reasons.table().reasons.items():
        operator_words = {
            "operator": row.sentence,
            "text": row.text,
            "prefix": row.text_prefix,
            "told_as": row.told_as,
            "remedy": row.remedy,
        }
        more = {name: text or None for name, text in operator_words.items()}
        reply.reasons[code] = _words(row).model_copy(update=more)
    for code, problem in reasons.table().problems.items():
        reply.problems[code].remedy = problem.remedy
    reply.events = dict(reasons.table().events)
    reply.signals = {str(number): name for number, name in reasons.signals().items()}
    return reply


def _words(row: reasons.Row | reasons.Problem) -> Words:
    more: dict[str, Any] = {name: getattr(row, name) or None for name in ("caller", "title", "page")}
    if isinstance(row, reasons.Row):
        more |= {"kind": row.kind, "retry_after": row.retry_after}
    return Words(retryable=row.retry, **more)
