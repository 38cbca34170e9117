"""Health: for people (`/api/health`), for restarts (`/livez`), for load balancers (`/readyz`)."""

import os
from collections.abc import AsyncIterator, Iterator

from fastapi import APIRouter, Request

from orchestrator import __version__
from orchestrator.api import caller_view, redis_memory
from orchestrator.api.access import Role
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.api.schemas import BreakerReply, HealthReply, Reply, example, why
from orchestrator.api.services import Services, ServicesDep
from orchestrator.errors import Draining, HostUnavailable, NotSetUp, NotWarm, StoreUnavailable
from orchestrator.machine.memory import limit_bytes
from orchestrator.operations import kill_window, reach, restarts, sharing, sizing
from orchestrator.task_queue.app import WEDGED_SECONDS

router = APIRouter(tags=["health"], responses=PROBLEM_RESPONSES)


#: A door is opened again within seconds of LiveKit's return.
DOOR_SECONDS = 10
#: Calls in a row that lost a living agent, after which it is no accident; the store tells its alert then too.
FAILING_CALLS = 3


class Alive(Reply):
    """The process answers."""

    model_config = example(success=True)


@router.get("/livez", summary="Is the api alive?")
async def livez() -> Alive:
    """Answer as long as the api's event loop turns."""
    return Alive()


@router.get("/readyz", summary="Can this node serve a start?")
async def readyz(parts: ServicesDep) -> Alive:
    """Answer 200 when a start would be served: Redis takes writes, a node with a host lives and has set the store up,
    and this one does not drain and has had a warm agent of its own: agents that do not boot never replace those that
    do."""
    await parts.store.take_write()
    if parts.settings.node_id in await parts.store.draining():
        raise Draining(retry_after=parts.settings.drain_seconds + 5)
    if not any(node.get("host") == "1" for node in (await parts.store.nodes()).values()):
        raise HostUnavailable("No node with an agent host and a Celery worker lives.", retry_after=5)
    if not await parts.store.configured():
        raise NotSetUp(retry_after=2)
    if not parts.proven:
        await _prove(parts)
    return Alive()


async def _prove(parts: Services) -> None:
    """Raise `NotWarm` until this node's agents have shown that they boot, or cannot be asked to."""
    node = parts.settings.node_id
    if not any(await parts.store.placed(node)):
        target = (await parts.store.counts())["target"]
        short = await parts.store.shortage(node)
        if target and not short:
            cause = await parts.store.boot_error()
            raise NotWarm(f"No agent of node {node} is warm yet{f' ({cause})' if cause else ''}.", retry_after=2)
    parts.proven = True


@router.get("/api/health", summary="What the node knows of itself")
async def health(request: Request, parts: ServicesDep) -> HealthReply:
    """Return counts, latencies and what is not as it should be: why, and where, is told to the operator."""
    caller = parts.access.starter(request)
    try:
        found = await describe_health(parts)
        return found if caller.role is Role.ADMIN else caller_view.health(found)
    except StoreUnavailable as failure:
        # Of what stands in Redis nothing can be told; of this node's programs it can.
        told = "; ".join([failure.detail, *restarts.troubles(parts.settings.run_dir)])
        raise StoreUnavailable(told, retry_after=failure.retry_after) from failure


async def describe_health(parts: Services) -> HealthReply:
    """Return what the node knows of itself, for whoever may know it."""
    latency = await parts.store.ping()
    refusal = await parts.store.refusal()
    counts = await parts.store.counts()
    nodes = await parts.store.nodes()
    stats = {name: float(value) for name, value in (await parts.store.pool_stats()).items()}
    queued = counts.pop("celery")
    draining = await parts.store.draining()
    trouble = await parts.store.livekit_trouble()
    doors = await parts.store.doors()
    breaker = await describe_breaker(parts)
    warnings = [f"no call can start, and none is recorded: {refusal}"] if refusal else []
    warnings += restarts.troubles(parts.settings.run_dir)
    warnings += _nodes_troubles(nodes, draining, parts.settings.node_id)
    if counts["target"] and not counts["pool"] and not counts["booting"]:
        warnings.append("the pool is empty and nothing is booting")
    warnings += [warning async for warning in _agents_troubles(parts, breaker)]
    if trouble:
        warnings.append(f"starts are refused: {trouble}")
    now = await parts.store.now()
    warnings += [warning for door in doors.values() if (warning := _door_trouble(door, now))]
    warnings += redis_memory.warnings(
        await parts.store.memory_use(), limit_bytes() if os.environ.get("EMBEDDED_VALKEY") == "true" else None
    )
    warnings += _settings_troubles(parts)
    if queued > 20:
        warnings.append(f"{queued} Celery tasks are waiting")
    for name in draining & nodes.keys():
        nodes[name]["draining"] = "1"
    return HealthReply(
        status="degraded" if warnings else "ok",
        version=__version__,
        access="open" if parts.access.open else "keys",
        sessions=counts | {"max": (await parts.store.capacity(parts.settings.node_id)).most},
        redis={"ok": refusal is None, "latencyMs": round(latency * 1000, 2)}
        | ({"trouble": refusal} if refusal else {}),
        celery={"queue": queued},
        livekit={"ok": trouble is None} | ({"trouble": trouble} if trouble else {}),
        breaker=breaker,
        sizing=await parts.store.sizing(),
        nodes=nodes,
        doors=doors,
        stats=stats,
        warnings=warnings,
    )


def _nodes_troubles(nodes: dict[str, dict[str, str]], draining: set[str], own_id: str) -> Iterator[str]:
    """Yield what is not as it should be with the nodes, and between those that share the Redis."""
    if not nodes:
        yield "no Celery worker has reported within 10 s: misses and refills wait"
    if own := nodes.get(own_id):
        own.pop("restarted", None)  # this node tells it itself, also while its Celery worker is what is restarted
    for name, fields in nodes.items():
        yield from _node_troubles(name, fields, name in draining)
    yield from sharing.troubles(nodes)


async def _agents_troubles(parts: Services, breaker: BreakerReply) -> AsyncIterator[str]:
    """Yield why agents are not started, do not boot, or do not serve."""
    if shortage := await parts.store.memory_shortage():
        yield f"no agent is started, and a start that finds no warm one waits in line: {shortage}"
    cause, agent_id = await parts.store.failed_boot()
    if cause:
        yield f"the last agent did not boot: {cause}" + (f"; see: orchestrator logs {agent_id}" if agent_id else "")
    if breaker.state != "closed":
        yield (
            f"the breaker is {breaker.state} after {breaker.failures} failed boots; the next attempt is in "
            f"{breaker.retry_in:.0f} s, or at once by: orchestrator breaker --close"
        )
    failing, lost = await parts.store.failing_calls()
    if failing >= FAILING_CALLS:
        yield f"agents live and serve no more, in the last {failing} calls in a row: {lost.text if lost else ''}"


def _settings_troubles(parts: Services) -> Iterator[str]:
    """Yield where this node's settings do not fit its machine or its surroundings."""
    if not parts.settings.redis.verify:
        yield sharing.UNVERIFIED
    yield from reach.troubles(parts.settings, os.environ)
    if kill := kill_window.warning(parts.settings, os.environ):
        yield kill
    if tight := sizing.warning(parts.settings, limit_bytes()):
        yield tight


def _node_troubles(name: str, fields: dict[str, str], draining: bool) -> Iterator[str]:
    """Yield what is not as it should be with a node."""
    if fields.get("twin") == "1":
        yield f"two nodes call themselves {name}: give each a NODE_ID of its own"
    if fields.get("host") != "1":
        yield f"node {name} has no agent host"
    if warning := fields.get("hostWarning"):
        yield f"the agent host of node {name}: {warning}"
    if draining:
        yield f"node {name} drains"
    if restarted := fields.get("restarted"):
        yield f"node {name}: {restarted}"
    if int(fields.get("canaryAge", 0)) > WEDGED_SECONDS:
        yield f"the Celery worker of node {name} has consumed nothing for {fields['canaryAge']} s"


def _door_trouble(door: dict[str, str], now: float) -> str | None:
    """Return why LiveKit cannot ask a node for an agent, when that has lasted; None when it can."""
    away = now - int(door["since"])
    if door["registered"] == "1" or away <= DOOR_SECONDS:
        return None
    return (
        f"node {door['node']} has not been registered with LiveKit for {away:.0f} s, and gets no dispatch of "
        f"{door['agentName']}: {door['error'] or 'it has not tried yet'}"
    )


async def describe_breaker(parts: Services) -> BreakerReply:
    """Return how boots go, as the API shows it."""
    breaker = await parts.store.breaker()
    return BreakerReply(
        state=breaker.state,
        failures=breaker.failures,
        agent_id=breaker.agent,
        retry_in=round(breaker.retry_seconds, 1),
        **why("cause", breaker.cause),
    )
