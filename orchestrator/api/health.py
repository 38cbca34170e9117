"""Health: for people (`/api/health`), for restarts (`/livez`), for load balancers (`/readyz`)."""

import os
from collections.abc import Iterator

from fastapi import APIRouter, Request

from orchestrator import __version__
from orchestrator.api import caller_view, redis_memory
from orchestrator.api.access import Role
from orchestrator.api.dependencies import ServicesDep
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.api.schemas.base import Reply, example, why
from orchestrator.api.schemas.health import (
    BreakerReply,
    HealthReply,
    NodeHealth,
    RedisHealth,
    RegistrationReply,
    ServiceHealth,
    WarningCode,
)
from orchestrator.api.services import Services
from orchestrator.errors import Draining, HostUnavailable, NotSetUp, NotWarm, StoreUnavailable
from orchestrator.machine.memory import limit_bytes
from orchestrator.operations import kill_window, reach, restarts, sharing, sizing
from orchestrator.reasons import HealthWarning, warn
from orchestrator.store import Breaker, Node, Reading, Registration
from orchestrator.store.constants import FAILING_CALLS
from orchestrator.store.keys import CELERY_QUEUE
from orchestrator.store.refusals import RETRY_SECONDS as REFUSED_SECONDS
from orchestrator.task_queue.app import WEDGED_SECONDS

router = APIRouter(tags=["health"], responses=PROBLEM_RESPONSES)


#: Seconds for which a lost registration with LiveKit is no warning: it is renewed soon after LiveKit's return.
REGISTRATION_SECONDS = 10


class Alive(Reply):
    """The process answers."""

    model_config = example(success=True)


@router.get("/livez", summary="Is the api alive?")
async def livez() -> Alive:
    """Answer as long as the api's event loop runs."""
    return Alive()


@router.get("/readyz", summary="Can this node serve a start?")
async def readyz(services: ServicesDep) -> Alive:
    """Answer 200 when a start would be served: Redis takes writes, a node with a host lives and has set the store up,
    and this one does not drain and has had a warm agent of its own: agents that do not boot never replace those that
    do."""
    reading = await services.store.reading()
    if reading.server.refusal:
        raise StoreUnavailable(reading.server.refusal, retry_after=REFUSED_SECONDS)
    node = reading.node(services.settings.node_id)
    if node.draining:
        raise Draining(retry_after=services.settings.drain_seconds + 5)
    if not any(each.host for each in reading.nodes.values()):
        raise HostUnavailable("No node with an agent host and a Celery worker lives.", retry_after=5)
    if not reading.configured:
        raise NotSetUp(retry_after=2)
    if not services.proven and not (node.warm or node.busy) and reading.target and not node.memory_shortage:
        cause = f" ({reading.boot_error})" if reading.boot_error else ""
        raise NotWarm(f"No agent of node {node.id} is warm yet{cause}.", retry_after=2)
    services.proven = True
    return Alive()


@router.get("/api/health", summary="Get the health of the node")
async def health(request: Request, services: ServicesDep) -> HealthReply:
    """Return counts, latencies and warnings. Only the operator gets the reasons and the nodes concerned."""
    # guard: client-secret-routes
    caller = services.access.starter(request)
    try:
        reply = describe_health(services, await services.store.reading())
        # guard: caller-health
        return reply if caller.role is Role.ADMIN else caller_view.health(reply)
    except StoreUnavailable as failure:
        # What is in Redis is unknown now; how this node's programs are doing is not.
        found = restarts.troubles(services.settings.run_dir)
        detail = "; ".join([failure.detail, *map(str, found)])
        raise StoreUnavailable(detail, retry_after=failure.retry_after, warnings=found) from failure


def describe_health(services: Services, reading: Reading) -> HealthReply:
    """Return the health of the node and of what it shares with others, as the operator may see it."""
    warnings = list(_warnings(services, reading))
    refusal, trouble = reading.server.refusal, reading.livekit_trouble
    return HealthReply(
        status="degraded" if warnings else "ok",
        version=__version__,
        access="open" if services.access.open else "keys",
        sessions=reading.counts | {"max": reading.max_sessions or 0},
        redis=RedisHealth(
            ok=refusal is None, trouble=refusal or None, latency_ms=round(reading.server.latency * 1000, 2)
        ),
        celery={"queue": reading.queues[CELERY_QUEUE]},
        livekit=ServiceHealth(ok=trouble is None, trouble=trouble or None),
        breaker=describe_breaker(reading.breaker),
        sizing=reading.sizing,
        nodes={name: NodeHealth.model_validate(node) for name, node in reading.nodes.items()},
        doors={name: RegistrationReply.model_validate(each) for name, each in reading.registrations.items()},
        stats=dict(reading.stats),
        warnings=[str(warning) for warning in warnings],
        warning_codes=[WarningCode.model_validate(warning.as_json()) for warning in warnings],
    )


def _warnings(services: Services, reading: Reading) -> Iterator[HealthWarning]:
    """Yield all warnings."""
    if reading.server.refusal:
        yield warn("store_unavailable", detail=reading.server.refusal)
    yield from restarts.troubles(services.settings.run_dir)
    yield from _nodes_troubles(reading, services.settings.node_id)
    if reading.target and not reading.counts["pool"] and not reading.counts["booting"]:
        yield warn("pool_empty")
    yield from _agents_troubles(reading)
    if reading.livekit_trouble:
        yield warn("livekit_unavailable", detail=reading.livekit_trouble)
    for registration in reading.registrations.values():
        if warning := _registration_trouble(registration, reading.now):
            yield warning
    embedded = os.environ.get("EMBEDDED_VALKEY") == "true"
    yield from redis_memory.warnings(reading.server.memory, limit_bytes() if embedded else None)
    yield from _settings_troubles(services)
    if (queued := reading.queues[CELERY_QUEUE]) > 20:
        yield warn("tasks_wait", tasks=queued)


def _nodes_troubles(reading: Reading, own_id: str) -> Iterator[HealthWarning]:
    """Yield the warnings about each node, and about the differences between them."""
    if not reading.nodes:
        yield warn("no_nodes")
    for node in reading.nodes.values():
        yield from _node_troubles(node, own=node.id == own_id)
    yield from sharing.troubles(reading.nodes)


def _agents_troubles(reading: Reading) -> Iterator[HealthWarning]:
    """Yield the warnings about agents that are not started, do not boot, or fail in calls."""
    breaker = reading.breaker
    if reading.memory_shortage:
        yield warn("memory_short", detail=reading.memory_shortage)
    if reading.boot_error:
        yield warn("boot_failed", detail=reading.boot_error, agentId=reading.boot_error_agent or None)
    if breaker.state != "closed":
        seconds = round(breaker.retry_seconds)
        yield warn("agents_do_not_boot", state=breaker.state, failures=breaker.failures, seconds=seconds)
    if reading.failing_calls >= FAILING_CALLS:
        yield warn("calls_fail", calls=reading.failing_calls, detail=reading.failing_cause)


def _settings_troubles(services: Services) -> Iterator[HealthWarning]:
    """Yield the warnings about settings that do not fit this node's machine or its environment."""
    if not services.settings.redis.verify:
        yield warn("redis_unverified")
    # guard: livekit-unreachable
    yield from reach.troubles(services.settings, os.environ)
    if kill := kill_window.warning(services.settings, os.environ):
        yield kill
    if tight := sizing.warning(services.settings, limit_bytes()):
        yield tight


def _node_troubles(node: Node, *, own: bool) -> Iterator[HealthWarning]:
    """Yield the warnings about one node."""
    if node.twin:
        yield warn("node_id_taken", node=node.id)
    if not node.host:
        yield warn("host_unavailable", node=node.id)
    if node.host_warning:
        yield warn("not_preloaded", node=node.id, detail=node.host_warning)
    if node.draining:
        yield warn("draining", node=node.id)
    # This node reads its own restarts from its disk, also while its Celery worker is what is restarted.
    if node.restarted and not own:
        yield warn("node_program_restarts", node=node.id, detail=node.restarted)
    if node.canary_age > WEDGED_SECONDS:
        yield warn("worker_stuck", node=node.id, seconds=node.canary_age)


def _registration_trouble(registration: Registration, now: float) -> HealthWarning | None:
    """Return why LiveKit cannot dispatch to a node, once that has lasted; None when it can."""
    away = now - registration.since
    if registration.registered or away <= REGISTRATION_SECONDS:
        return None
    return warn(
        "not_registered",
        node=registration.node,
        seconds=round(away),
        agentName=registration.agent_name,
        detail=registration.error or "it has not tried yet",
    )


def describe_breaker(breaker: Breaker) -> BreakerReply:
    """Return how boots go, as the API shows it."""
    return BreakerReply(
        state=breaker.state,
        failures=breaker.failures,
        agent_id=breaker.agent,
        retry_in=round(breaker.retry_seconds, 1),
        **why("cause", breaker.cause),
    )
