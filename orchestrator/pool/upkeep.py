"""Keeping records and reality together: refill, shrink, stale sessions, agents of nodes that are gone."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from orchestrator.errors import OrchestratorError
from orchestrator.models import new_id
from orchestrator.settings import Settings
from orchestrator.states import AgentState, SessionState
from orchestrator.store import Store

log = logging.getLogger("orchestrator.pool")

#: Boots one announced agent and returns when it is warm. Raises OrchestratorError with the cause.
Boot = Callable[[str], Awaitable[None]]

#: Stops an agent that has left the pool, wherever it lives.
Stop = Callable[[str], Awaitable[None]]

#: Agents announced by one refill at most; what is missing beyond them waits for the next.
REFILL_BATCH = 64


async def refill(store: Store, boot: Boot, stop: Stop) -> int:
    """Bring the pool to its target: stop what is too much, boot what it lacks; returns how many became warm.

    A failed boot waits for the next refill.
    """
    for agent_id in await store.surplus():
        await stop(agent_id)
    announced = await store.reserve([new_id("prewarm") for _ in range(REFILL_BATCH)])
    results = await asyncio.gather(*(boot(agent_id) for agent_id in announced), return_exceptions=True)
    for agent_id, result in zip(announced, results, strict=True):
        if isinstance(result, OrchestratorError):
            log.error("pool agent did not boot", extra={"agent_id": agent_id, "cause": result.detail})
        elif isinstance(result, BaseException):
            raise result
    return sum(result is None for result in results)


async def end_stale(store: Store, settings: Settings, live_nodes: Iterable[str]) -> list[str]:
    """End the agents and sessions that nobody serves any more; returns the ids of the sessions ended.

    An agent of a node that is gone has exited. A session in `starting` past every bound, or bound to an
    agent without a record, is an error with that reason.
    """
    now = await store.now()
    alive = set(live_nodes)
    agents = {agent.id: agent for agent in await store.agents()}
    for agent in agents.values():
        unclaimed = agent.state is AgentState.STARTING and agent.node is None
        if agent.node is not None and agent.node not in alive:
            await store.exited(agent.id, f"node {agent.node} is gone", None, None)
        elif unclaimed and now - agent.created_at > 2 * settings.boot_timeout_seconds:
            await store.exited(agent.id, "no node claimed it", None, None)

    # Four attempts of spawn_agent, each up to its time-out, and the pauses between them.
    bound = 4 * settings.boot_timeout_seconds + 30
    ended = []
    for session_id in await store.live_session_ids():
        session = await store.session(session_id)
        reason = None
        if session is None or not session.live:
            continue
        if session.status is SessionState.STARTING:
            if now - session.created_at > bound:
                reason = f"start_timeout: no agent within {bound:.0f} s"
        elif session.agent_id not in agents:
            reason = "agent_lost: its record is gone"
        if reason:
            await store.end_session(session_id, SessionState.ERROR, reason)
            ended.append(session_id)
    await store.trim()
    return ended
