"""Streams the logs of a session, or of one agent: each line once, in order, from where the listener stopped.

A place is how many lines of each agent were sent, as `agent:count,agent:count`: the logs of a session's agents overlap
when one takes over from another. Lines that Redis has dropped before they were read are counted as `missed`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from fastapi.sse import ServerSentEvent

from orchestrator.api.change_feed import wait_for_event
from orchestrator.models import ID_PATTERN
from orchestrator.store import Store

#: Seconds between two reads: lines are shipped four times a second.
POLL_SECONDS = 0.25
#: Seconds after an agent's exit in which its last lines are still shipped.
LAST_WORDS_SECONDS = 5.0
#: Lines in one event.
LINES = 200

_ONE = ID_PATTERN.strip("^$") + r":\d{1,12}"
#: The syntax of an event id: for each agent, how many of its lines were sent.
POSITION_PATTERN = rf"^({_ONE}(,{_ONE})*)?$"


def parse_position(text: str) -> dict[str, int]:
    """Return how many lines of each agent were sent."""
    return {agent: int(count) for agent, _, count in (part.partition(":") for part in text.split(",") if part)}


@dataclass(frozen=True, slots=True)
class Source:
    """The agents whose logs are streamed, and when the last of them ended (Unix seconds): None while one may print."""

    agents: tuple[str, ...]
    over_at: float | None


#: Returns the source as it is now; None when its record is gone.
FindSource = Callable[[Store], Awaitable[Source | None]]


def of_session(session_id: str) -> FindSource:
    """Stream the agents of a session: another one may follow as long as the session is not over."""

    async def find(store: Store) -> Source | None:
        session = await store.session(session_id)
        if session is None:
            return None
        exited_at = None if session.ended_at is None else await _last_exit(store, session.printed_by)
        over_at = None if session.ended_at is None or exited_at is None else max(session.ended_at, exited_at)
        return Source(session.printed_by, over_at)

    return find


def of_agent(agent_id: str) -> FindSource:
    """Stream one agent. Its log may be kept a little longer than its record."""

    async def find(store: Store) -> Source | None:
        return Source((agent_id,), await _last_exit(store, (agent_id,)))

    return find


async def _last_exit(store: Store, agents: tuple[str, ...]) -> float | None:
    """Return when the last of these agents exited, 0 when none has a record, None while one has not exited."""
    exits = [agent.exited_at for agent in await store.agent_records(agents)]
    return None if None in exits else max((at for at in exits if at), default=0.0)


async def follow(
    store: Store, find_source: FindSource, sent_up_to: dict[str, int], closed: asyncio.Event
) -> AsyncIterator[ServerSentEvent]:
    """Yield log lines as they come, and `end` after the last one. Stops when `closed` is set."""
    while (source := await find_source(store)) is not None:
        # Before the lines are read, so that everything printed until then is read.
        over = source.over_at is not None and await store.now() > source.over_at + LAST_WORDS_SECONDS
        for agent_id in source.agents:
            async for event in _new_lines(store, agent_id, sent_up_to):
                yield event
        if over:
            break
        await wait_for_event(closed, POLL_SECONDS)
        if closed.is_set():
            return
    yield ServerSentEvent(event="end", data={})


async def _new_lines(store: Store, agent_id: str, sent_up_to: dict[str, int]) -> AsyncIterator[ServerSentEvent]:
    before = sent_up_to.get(agent_id, 0)
    count, lines = await store.log_lines(agent_id, before)
    # Fewer than before: Redis has lost the log, and a new one has begun.
    missed = count - len(lines) - (before if before <= count else 0)
    at = count - len(lines)
    for start in range(0, len(lines), LINES):
        some = lines[start : start + LINES]
        at += len(some)
        sent_up_to[agent_id] = at
        data = {"agentId": agent_id, "lines": some, "missed": max(0, missed) if start == 0 else 0}
        yield ServerSentEvent(event="lines", id=",".join(f"{name}:{n}" for name, n in sent_up_to.items()), data=data)
