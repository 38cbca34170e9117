"""Answers as callers get them: without what only the operator may see, or with fixed sentences (caller_words.py).

The fields that callers get are listed here one by one, so that a new field is the operator's until it is added.
"""

from collections.abc import Mapping
from typing import Any

from pydantic.alias_generators import to_camel

from orchestrator.api import caller_words
from orchestrator.api.schemas.health import (
    BreakerReply,
    HealthReply,
    NodeBrief,
    RedisHealth,
    ServiceHealth,
    WarningCode,
)
from orchestrator.api.schemas.sessions import Event, SessionReply
from orchestrator.reasons import OTHER

#: What belongs to an event, its reason and its cause aside.
_EVENT = frozenset({"id", "at", "state", "phase", "position", "agentId", "event", "toldNext"})


def event(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event of a session as callers get it."""
    visible = {name: value for name, value in fields.items() if name in _EVENT}
    for name, words in (("reason", caller_words.reason), ("cause", caller_words.cause)):
        named = words(fields.get(name), fields.get(f"{name}Code"), fields.get(f"{name}Params"))
        visible |= {to_camel(field): value for field, value in named.items() if value is not None}
    return visible


def session(reply: SessionReply) -> SessionReply:
    """Return a session as callers get it."""
    agents = reply.agents and [
        agent.model_copy(update=caller_words.cause(agent.cause, agent.cause_code, agent.cause_params))
        for agent in reply.agents
    ]
    events = reply.events and [Event.model_validate(event(each.model_dump(by_alias=True))) for each in reply.events]
    return reply.model_copy(
        update={
            **caller_words.reason(reply.reason, reply.reason_code, reply.reason_params),
            **caller_words.cause(reply.cause, reply.cause_code, reply.cause_params),
            "events": events,
            "agents": agents,
            "last_log_lines": None,
        }
    )


def health(reply: HealthReply) -> HealthReply:
    """Return a node's health as callers get it: counts, and that something is wrong, but not why."""
    codes = _warning_codes(reply)
    return HealthReply(
        status=reply.status,
        version=reply.version,
        access=reply.access,
        sessions=reply.sessions,
        redis=RedisHealth(ok=reply.redis.ok, latency_ms=reply.redis.latency_ms),
        celery=reply.celery,
        livekit=ServiceHealth(ok=reply.livekit.ok),
        breaker=BreakerReply(
            state=reply.breaker.state, failures=reply.breaker.failures, retry_in=reply.breaker.retry_in
        ),
        nodes={
            name: NodeBrief(host=node.host, draining=node.draining, last_beat=node.last_beat)
            for name, node in reply.nodes.items()
        },
        doors={},
        stats=reply.stats,
        warnings=[caller_words.WARNINGS[code] for code in codes],
        warning_codes=[WarningCode(code=code) for code in codes],
    )


def _warning_codes(reply: HealthReply) -> list[str]:
    """Return the codes of what is wrong that have a sentence for callers, each once, in the order of the table."""
    found = {each.code for each in reply.warning_codes}
    known = [code for code in caller_words.WARNINGS if code in found]
    return known or ([OTHER] if found else [])
