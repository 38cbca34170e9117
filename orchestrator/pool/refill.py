"""The upkeep of the pool: its refill, its target, and sessions whose agent has disappeared."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from orchestrator.errors import OrchestratorError
from orchestrator.models import new_id
from orchestrator.reasons import because
from orchestrator.states import SessionState
from orchestrator.store import Store

log = logging.getLogger("orchestrator.pool")

#: Boots an announced agent and returns when it is warm. Raises OrchestratorError with the cause.
Boot = Callable[[str], Awaitable[None]]

#: Stops an agent that has left the pool, on whichever node it runs.
Stop = Callable[[str], Awaitable[None]]

#: Most agents that one refill announces; the next refill announces the rest.
REFILL_BATCH = 64


async def refill(store: Store, node: str, boot: Boot, stop: Stop, *, refused: str = "") -> int:
    """Bring the pool to its target: stop surplus agents, and boot this node's share of the missing ones.

    A failed boot waits for the next refill. `refused`: why this node can start none.

    Returns:
        How many agents became warm.
    """
    for agent_id in await store.retire_surplus():
        await stop(agent_id)
    announced = await store.reserve_agents([new_id("prewarm") for _ in range(REFILL_BATCH)], node, refused=refused)
    results = await asyncio.gather(*(boot(agent_id) for agent_id in announced), return_exceptions=True)
    for agent_id, result in zip(announced, results, strict=True):
        if isinstance(result, OrchestratorError):
            log.error("pool agent did not boot", extra={"agent_id": agent_id, "cause": result.detail})
        elif isinstance(result, BaseException):
            raise result
    return sum(result is None for result in results)


def target_size(
    arrivals: float, boot: float, *, pool_min: int, pool_max: int, memory_for: int | None
) -> tuple[int, str]:
    """Return how many warm agents the demand needs, and why in one sentence.

    Args:
        arrivals: starts per second.
        boot: seconds until an agent is warm. Times `arrivals`, it is the mean number of starts during a boot; as starts
            are about Poisson distributed, twice the root of it and one more are added.
        pool_min, pool_max: the configured bounds.
        memory_for: number of agents that fit into the memory, None if unknown.
    """
    mean = arrivals * boot
    need = math.ceil(mean + 2 * math.sqrt(mean)) + 1
    ceiling = pool_max if memory_for is None else min(pool_max, memory_for)
    target = max(min(need, ceiling), min(pool_min, ceiling))
    why = f"{arrivals:.2f} starts/s times {boot:.2f} s to boot, with a margin, need {need}"
    if target < need:
        bound = "memory" if memory_for is not None and memory_for < pool_max else f"POOL_MAX={pool_max}"
        why += f"; {bound} allows {target}"
    elif target > need:
        why += f"; POOL_MIN={pool_min} keeps {target}"
    return target, why


async def end_stale(store: Store, suspects: set[str]) -> tuple[list[str], set[str]]:
    """End the sessions whose agent has no record.

    A session is ended only if it was suspect before: a live agent registers again within a heartbeat. The node's
    heartbeat says nothing about its agents, which outlive their node's Celery worker.

    Returns:
        The ids of the ended sessions, and the suspects for the next call.
    """
    agents = {agent.id for agent in await store.agents()}
    live = sorted(await store.live_session_ids())
    sessions = {session.id: session for session in await store.session_records(live)}
    # guard: heartbeat-decides
    ended, next_suspects = [], set()
    for session_id in live:
        session = sessions.get(session_id)
        lost = session is None or (
            session.status in {SessionState.READY, SessionState.ACTIVE} and session.agent_id not in agents
        )
        if not lost:
            continue
        if session_id not in suspects:
            next_suspects.add(session_id)
        elif await store.end_lost_session(session_id, because("record_lost")) == "ended":
            ended.append(session_id)
    await store.trim()
    return ended, next_suspects
