"""Follows the logs of a session: each line once, in order, from where the listener stopped.

A place is how many lines of each agent were seen, as `agent:count,agent:count`: what a session's agents print overlaps
when one takes over from another. Lines that Redis has dropped before they were read are counted as `missed`.
"""

import asyncio
from collections.abc import AsyncIterator

from fastapi.sse import ServerSentEvent

from orchestrator.api.feed import set_within
from orchestrator.models import Session
from orchestrator.store import Store

#: Seconds between two looks: lines are shipped four times a second.
LOOK_SECONDS = 0.25
#: Seconds after an agent's exit in which its last lines are still shipped.
LAST_WORDS_SECONDS = 5.0
#: Lines in one event.
LINES = 200

_ONE = r"(?:prewarm|session)_[0-9a-f]{32}:\d{1,12}"
#: What a place looks like.
PLACE = rf"^({_ONE}(,{_ONE})*)?$"


def place(text: str) -> dict[str, int]:
    """Return how many lines of each agent were seen."""
    return {agent: int(count) for agent, _, count in (part.partition(":") for part in text.split(",") if part)}


async def follow(
    store: Store, session_id: str, seen: dict[str, int], closed: asyncio.Event
) -> AsyncIterator[ServerSentEvent]:
    """Yield a session's log lines as they come; `end` follows the last one. Breaks off when `closed` is set."""
    while (session := await store.session(session_id)) is not None:
        agents = session.printed_by
        # Asked before the lines are read: what was printed by then is read.
        over = await _over(store, session, agents)
        for agent_id in agents:
            async for event in _new_lines(store, agent_id, seen):
                yield event
        if over:
            break
        await set_within(closed, LOOK_SECONDS)
        if closed.is_set():
            return
    yield ServerSentEvent(event="end", data={})


async def _new_lines(store: Store, agent_id: str, seen: dict[str, int]) -> AsyncIterator[ServerSentEvent]:
    before = seen.get(agent_id, 0)
    count, lines = await store.log_lines(agent_id, before)
    # Fewer than before: Redis has lost the log since, and it began anew.
    missed = count - len(lines) - (before if before <= count else 0)
    at = count - len(lines)
    for start in range(0, len(lines), LINES):
        some = lines[start : start + LINES]
        at += len(some)
        seen[agent_id] = at
        data = {"agentId": agent_id, "lines": some, "missed": max(0, missed) if start == 0 else 0}
        yield ServerSentEvent(event="lines", id=",".join(f"{name}:{n}" for name, n in seen.items()), data=data)


async def _over(store: Store, session: Session, agents: tuple[str, ...]) -> bool:
    """Return whether nobody is left who prints, and what they printed has been shipped."""
    if session.ended_at is None:
        return False
    exits = [agent.exited_at for agent in await store.agent_records(agents)]
    last = max([session.ended_at, *(at for at in exits if at)])
    return None not in exits and await store.now() > last + LAST_WORDS_SECONDS
