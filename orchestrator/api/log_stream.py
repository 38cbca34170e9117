"""Follows the logs of a session, or of one agent: each line once, in order, from where the listener stopped.

A place is how many lines of each agent were seen, as `agent:count,agent:count`: what a session's agents print overlaps
when one takes over from another. Lines that Redis has dropped before they were read are counted as `missed`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from fastapi.sse import ServerSentEvent

from orchestrator.api.change_feed import wait_for_event
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


@dataclass(frozen=True, slots=True)
class Printing:
    """Who prints, and since when (Unix seconds) nobody does any more: None while somebody may."""

    agents: tuple[str, ...]
    over_at: float | None


#: Returns who prints now; None when nothing is known of it any more.
Look = Callable[[Store], Awaitable[Printing | None]]


def of_session(session_id: str) -> Look:
    """Look at the agents of a session: the next one may still come as long as it is not over."""

    async def look(store: Store) -> Printing | None:
        session = await store.session(session_id)
        if session is None:
            return None
        exited_at = None if session.ended_at is None else await _last_exit(store, session.printed_by)
        over_at = None if session.ended_at is None or exited_at is None else max(session.ended_at, exited_at)
        return Printing(session.printed_by, over_at)

    return look


def of_agent(agent_id: str) -> Look:
    """Look at one agent. Its log may be kept a little longer than its record."""

    async def look(store: Store) -> Printing | None:
        return Printing((agent_id,), await _last_exit(store, (agent_id,)))

    return look


async def _last_exit(store: Store, agents: tuple[str, ...]) -> float | None:
    """Return when the last of these agents exited, 0 when none has a record, None while one has not exited."""
    exits = [agent.exited_at for agent in await store.agent_records(agents)]
    return None if None in exits else max((at for at in exits if at), default=0.0)


async def follow(
    store: Store, look: Look, seen: dict[str, int], closed: asyncio.Event
) -> AsyncIterator[ServerSentEvent]:
    """Yield log lines as they come; `end` follows the last one. Breaks off when `closed` is set."""
    while (printing := await look(store)) is not None:
        # Asked before the lines are read: what was printed by then is read.
        over = printing.over_at is not None and await store.now() > printing.over_at + LAST_WORDS_SECONDS
        for agent_id in printing.agents:
            async for event in _new_lines(store, agent_id, seen):
                yield event
        if over:
            break
        await wait_for_event(closed, LOOK_SECONDS)
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
