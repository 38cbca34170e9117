"""Compares our sessions with the rooms at LiveKit, has the store act on what differs, and closes rooms.

A webhook, or the time for a round (process_deadlines.lua), begins a check; reconcile_room.lua decides, once LiveKit
has said the same for a while. Rooms that are no session's are never asked about.
Failure cases: LiveKit does not answer → a check is tried again, a round waits for the next one; the session moves while
LiveKit is asked → what it says of an earlier agent does not count.
"""

import asyncio
import logging
import re

from orchestrator.errors import LiveKitUnavailable
from orchestrator.livekit.rooms import Rooms
from orchestrator.models import ROOM_PATTERN, Session
from orchestrator.states import SessionState
from orchestrator.store import Store

log = logging.getLogger("orchestrator.worker.reconciler")

#: A room that is entered again after its session was entered with a token that is good for a quarter of an hour.
OVER_SECONDS = 3600.0
AGAIN_SECONDS = 2.0
#: Rooms that are asked about at the same time, and in one request.
AT_ONCE, ROOMS_AT_ONCE = 8, 200
#: From the first round that finds a room without a session to the one that closes it, at least.
UNSERVED_SECONDS = 20.0

_BOUND = frozenset({SessionState.READY, SessionState.ACTIVE})


class Reconciler:
    """The checks of one node. `longest` is the longest length of a session, in seconds."""

    def __init__(self, store: Store, rooms: Rooms, longest: float) -> None:
        self._store, self._rooms, self._longest = store, rooms, longest

    async def reconcile(self, session_id: str) -> None:
        """Compare one session with its room."""
        session = await self._store.session(session_id)
        if session is None or not (session.status in _BOUND or _to_delete(session)):
            return
        try:
            await self._compare(session, await self._rooms.existing([session.room_name]))
        except LiveKitUnavailable as failure:
            log.info("%s is checked again: %s", session_id, failure.detail)
            await self._store.check_room_within(session_id, AGAIN_SECONDS)

    async def all(self) -> None:
        """Compare all sessions that have an agent, and find the rooms of those that are over."""
        since = await self._store.now() - self._longest - OVER_SECONDS
        bound, ended = await self._store.bound_and_over(since)
        over = {session.room_name: session.id for session in ended if _to_delete(session)}
        try:
            existing = await self._rooms.existing({session.room_name for session in bound} | over.keys())
            slots = asyncio.Semaphore(AT_ONCE)

            async def compare(session: Session) -> None:
                async with slots:
                    await self._compare(session, existing)

            await asyncio.gather(*map(compare, bound))
        except LiveKitUnavailable as failure:
            log.warning("sessions are not compared with LiveKit: %s", failure.detail)
            return
        for room in sorted(existing & over.keys()):
            self._say(over[room], await self._store.reconcile_room(over[room], "", exists=True))
        await self._close_unserved()

    async def _close_unserved(self) -> None:
        """Close the rooms that users have joined by a token of ours and that have no agent: LiveKit asks for an agent
        once, and the user would wait there for ever."""
        rooms = await self._store.rooms_without_session()
        try:
            for begin in range(0, len(rooms), ROOMS_AT_ONCE):
                for room in sorted(await self._rooms.existing(rooms[begin : begin + ROOMS_AT_ONCE])):
                    if await self._store.unserved_for(room) < UNSERVED_SECONDS:
                        continue
                    _, agent = await self._rooms.present(room)
                    if not agent:  # another program may serve our name
                        log.warning("a room without an agent is closed", extra={"room": room})
                        # guard: close-unserved-room
                        await self._rooms.delete(room)
        except LiveKitUnavailable as failure:
            log.warning("the search for rooms without an agent failed: %s", failure.detail)

    async def close(self, session_id: str) -> None:
        """Delete the room of a session that is over, or leave it where it is not ours; tried again until it is said to
        be closed."""
        session = await self._store.session(session_id)
        if session is not None:
            try:
                await self._leave(session.room_name)
            except LiveKitUnavailable as failure:
                log.warning("room not deleted yet: %s", failure.detail)
                return
        await self._store.room_closed(session_id)

    async def make(self, session_id: str) -> None:
        """Make the room of a session whose agent found none: LiveKit makes none by itself. The agent tries again."""
        session = await self._store.session(session_id)
        if session is None or not session.live:
            return
        try:
            await self._rooms.create(session.room_name)
        except LiveKitUnavailable as failure:
            log.warning("room not made: %s", failure.detail)
        else:
            await self._store.room_made(session_id)

    async def _leave(self, room: str) -> None:
        newest = await self._store.session(await self._store.newest_session_of_room(room) or "")
        if newest is not None and newest.live:
            return  # the next session is in it already
        if re.fullmatch(ROOM_PATTERN, room):
            await self._rooms.delete(room)
        else:
            await self._rooms.leave(room)

    async def _compare(self, session: Session, existing: set[str]) -> None:
        exists, agent_id = session.room_name in existing, session.agent_id or ""
        user, agent = await self._rooms.present(session.room_name) if exists and session.live else ("gone", False)
        self._say(
            session.id, await self._store.reconcile_room(session.id, agent_id, exists=exists, user=user, agent=agent)
        )

    def _say(self, session_id: str, done: str) -> None:
        if done and done != "mismatch":
            log.warning("the record was corrected from LiveKit", extra={"session_id": session_id, "finding": done})


def _to_delete(session: Session) -> bool:
    """Whether the room of a session is to be gone. In one of another's making others may go on without an agent."""
    # guard: own-rooms
    return not session.live and re.fullmatch(ROOM_PATTERN, session.room_name) is not None
