"""The admin routes: sessions and agents, the size of the pool, drain, reload, the breaker."""

import secrets
from typing import Annotated

from fastapi import APIRouter, Path, Query

from orchestrator.api.dependencies import ServicesDep, administrator
from orchestrator.api.gate import gated
from orchestrator.api.health import describe_breaker
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.api.schemas.admin import (
    AgentInfo,
    NodeReply,
    NodesReply,
    ReloadReply,
    ResizeReply,
    ResizeRequest,
    SessionsReply,
)
from orchestrator.api.schemas.health import BreakerReply
from orchestrator.api.services import Services
from orchestrator.api.sessions import describe, moment
from orchestrator.errors import HostUnavailable, NotFound
from orchestrator.store import Node, Reading
from orchestrator.store.keys import node_queue
from orchestrator.task_queue import app as celery_app

#: The steps of a reload on a node; anything else is what went wrong there.
RELOAD_STEPS = frozenset({"waiting", "running", "done"})

router = APIRouter(prefix="/api", tags=["admin"], route_class=gated(administrator), responses=PROBLEM_RESPONSES)


@router.get("/sessions", summary="List sessions and agents", response_model_exclude_none=True)
async def sessions(services: ServicesDep) -> SessionsReply:
    """Return the newest 200 kept sessions and every living agent."""
    newest, reading = await services.store.sessions(), await services.store.reading()
    return SessionsReply(sessions=[describe(session) for session in newest], agents=living_agents(reading))


def living_agents(reading: Reading) -> list[AgentInfo]:
    """Return every agent that has not exited, as the API shows it."""
    return [
        AgentInfo(
            agent_id=agent.id,
            pid=agent.pid,
            status=agent.state,
            node=agent.node,
            session_id=agent.session_id,
            memory=reading.health_checks[agent.id].memory_bytes,
            health=reading.health_checks[agent.id].status,
            age=round(reading.now - agent.created_at, 1),
            created_at=moment(agent.created_at),
        )
        for agent in reading.agents
    ]


@router.post("/pool/resize", summary="Resize the pool")
async def resize(body: ResizeRequest, services: ServicesDep) -> ResizeReply:
    """Keep `size` warm agents from now on. The pool grows or shrinks at once; no agent in a session is stopped."""
    before = await services.store.counts()
    await services.store.set_target(body.size)
    await services.publish(celery_app.REFILL, expires=25)
    message = f"The pool goes from {before['pool']} to {body.size}."
    return ResizeReply(target=body.size, pool=before["pool"], message=message)


NodePath = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["node-1"])]
ReloadPath = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$", examples=["7f3a9d8b7e6f5a4b"])]


@router.get("/nodes", summary="List the nodes")
async def nodes(services: ServicesDep) -> NodesReply:
    """Return every node that shares this Redis, and what runs on it."""
    reading = await services.store.reading()
    return NodesReply(nodes=[_describe(node, reading.now) for node in reading.nodes.values()])


async def describe_node(services: Services, node_id: str) -> NodeReply:
    """Return what is known of a node. Raises `NotFound`."""
    reading = await services.store.reading()
    node = reading.node(node_id)
    if not node.alive and not node.draining:
        raise NotFound(f"There is no node {node_id}.")
    return _describe(node, reading.now)


def _describe(node: Node, now: float) -> NodeReply:
    return NodeReply(
        node=node.id,
        draining=node.draining,
        sessions=node.busy + node.closing,
        agents=node.agents,
        warm=node.warm,
        most=node.max_sessions or None,
        host=node.host,
        short=node.memory_shortage,
        version=node.version,
        heard=None if node.last_beat is None else round(max(0.0, now - node.last_beat), 1),
    )


@router.get("/nodes/{node}", summary="Get a node")
async def get_node(node: NodePath, services: ServicesDep) -> NodeReply:
    """Return how many sessions and agents are left on a node, and whether it drains."""
    return await describe_node(services, node)


@router.post("/nodes/{node}/drain", summary="Drain a node")
async def drain(
    node: NodePath,
    services: ServicesDep,
    seconds: Annotated[float | None, Query(ge=0, description="Fewer seconds than `DRAIN_SECONDS`.")] = None,
) -> NodeReply:
    """Take a node out of service: its warm agents leave at once. Calls that are not over after `DRAIN_SECONDS` go on
    with agents of another node; where there is none, they end.

    A second request with fewer `seconds` shortens the drain. `undrain` or a restart puts the node in service again.
    """
    if node not in await services.store.nodes():
        raise NotFound(f"There is no node {node}.")
    longest = services.settings.drain_seconds
    await services.store.drain_node(node, longest if seconds is None else min(seconds, longest))
    return await describe_node(services, node)


@router.post("/nodes/{node}/undrain", summary="Put a node in service again")
async def undrain(node: NodePath, services: ServicesDep) -> NodeReply:
    """Let a node that was drained take sessions again. Its calls are no longer ended because of the drain; an agent
    that has begun its goodbye still leaves."""
    if node not in await services.store.nodes():
        raise NotFound(f"There is no node {node}.")
    await services.store.undrain_node(node)
    await services.publish(celery_app.REFILL, expires=25)
    return await describe_node(services, node)


@router.post("/agents/reload", summary="Bring new agent code live")
async def reload(services: ServicesDep) -> ReloadReply:
    """Have every node reload the agents' code and replace its warm agents. Calls go on with the code that they began
    with."""
    nodes = await services.store.nodes()
    if not nodes:
        raise HostUnavailable("No live node could load agent code.", retry_after=5)
    reload_id = secrets.token_hex(8)
    for node in nodes:
        await services.store.note_reload(reload_id, node, "waiting")
        await services.publish(celery_app.RELOAD, reload_id, queue=node_queue(node), expires=120)
    return await reload_state(reload_id, services)


@router.get("/agents/reload/{reload_id}", summary="Get the progress of a reload")
async def reload_state(reload_id: ReloadPath, services: ServicesDep) -> ReloadReply:
    """Return the progress of each node. A reload is done when every node is and no warm agent runs older code."""
    progress = await services.store.reload(reload_id)
    if not progress:
        raise NotFound("There is no such reload, or it was begun more than an hour ago.")
    # A node that has gone meanwhile has nothing to load.
    states = {node: progress[node] for node in await services.store.nodes() if node in progress}
    stale = (await services.store.counts())["stale"]
    failed = sorted(node for node, state in states.items() if state not in RELOAD_STEPS)
    done = bool(states) and not failed and not stale and all(state == "done" for state in states.values())
    failures = "; ".join(f"{node}: {states[node]}" for node in failed)
    message = "New agent code is live." if done else failures or "The agents' code is being loaded."
    return ReloadReply(reload_id=reload_id, nodes=states, failed=failed, stale=stale, done=done, message=message)


@router.post("/breaker/close", summary="Close the circuit breaker")
async def close_breaker(services: ServicesDep) -> BreakerReply:
    """Try to boot agents again at once, after the cause of the failures is fixed."""
    await services.store.close_breaker()
    return describe_breaker(await services.store.breaker())
