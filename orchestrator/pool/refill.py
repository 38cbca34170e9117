"""Keeping records and reality together: refill, shrink, size, stale sessions."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from orchestrator.errors import OrchestratorError
from orchestrator.models import new_id
from orchestrator.states import SessionState
from orchestrator.store import Store

log = logging.getLogger("orchestrator.pool")

#: Boots one announced agent and returns when it is warm. Raises OrchestratorError with the cause.
Boot = Callable[[str], Awaitable[None]]

#: Stops an agent that has left the pool, wherever it lives.
Stop = Callable[[str], Awaitable[None]]

#: Agents announced by one refill at most; what is missing beyond them waits for the next.
REFILL_BATCH = 64


async def refill(store: Store, node: str, boot: Boot, stop: Stop, *, refused: str = "") -> int:
    """Bring the pool to its target: stop what is too much, boot what it lacks here; returns how many became warm.

    A failed boot waits for the next refill. `refused`: why this node can start none.
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


def wanted(arrivals: float, boot: float, *, least: int, most: int, room: int | None) -> tuple[int, str]:
    """Return how many warm agents what arrives needs, and why in one sentence.

    Args:
        arrivals: starts per second; `boot`: seconds until an agent is warm. Their product is how many start while
            one boots: on average, so twice its root (arrivals are about Poisson) and one more are added.
        least, most: the bounds that are set; `room`: agents for which there is memory, None = not known.
    """
    mean = arrivals * boot
    need = math.ceil(mean + 2 * math.sqrt(mean)) + 1
    ceiling = most if room is None else min(most, room)
    target = max(min(need, ceiling), min(least, ceiling))
    why = f"{arrivals:.2f} starts/s times {boot:.2f} s to boot, with a margin, need {need}"
    if target < need:
        bound = "memory" if room is not None and room < most else f"POOL_MAX={most}"
        why += f"; {bound} allows {target}"
    elif target > need:
        why += f"; POOL_MIN={least} keeps {target}"
    return target, why


async def end_stale(store: Store, suspects: set[str]) -> tuple[list[str], set[str]]:
    """End what nobody serves any more: sessions whose agent has no record.

    A session is ended at its second look: an agent that lives registers again within a heartbeat. Whether an agent
    lives is for its own heartbeat to say, not for its node's: agents outlive their node's Celery worker.

    Returns:
        The ids of the sessions ended, and the suspects to be given to the next look.
    """
    agents = {agent.id for agent in await store.agents()}
    ended, next_suspects = [], set()
    for session_id in await store.live_session_ids():
        session = await store.session(session_id)
        lost = session is None or (
            session.status in {SessionState.READY, SessionState.ACTIVE} and session.agent_id not in agents
        )
        if not lost:
            continue
        if session_id not in suspects:
            next_suspects.add(session_id)
        elif session is None:
            await store.forget_session(session_id)
        else:
            await store.end_session(session_id, SessionState.ERROR, "agent_lost: its record is gone")
            ended.append(session_id)
    await store.trim()
    return ended, next_suspects
