"""Deletes rooms on the LiveKit server, asks who is in them, and whether it answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from typing import Literal, Self

import aiohttp
from livekit import api
from livekit.protocol.models import ParticipantInfo

from orchestrator.errors import LiveKitUnavailable
from orchestrator.livekit.tokens import agent_identity

#: Whether the user is in a room; `coming`: connected, and media cannot flow yet.
Presence = Literal["there", "coming", "gone"]

#: Seconds that one request may take. The client's own time-out does not hold: it gives aiohttp None for each request.
REQUEST_SECONDS = 3.0
#: Participants that are people (or phone lines); an agent counts the same ones (`agents.context.USER_KINDS`).
_USERS = frozenset({ParticipantInfo.Kind.STANDARD, ParticipantInfo.Kind.SIP})
#: Participants that are no people on the line.
_MACHINES = frozenset({ParticipantInfo.AGENT, ParticipantInfo.EGRESS})


@contextlib.asynccontextmanager
async def _asking(undone: str) -> AsyncIterator[None]:
    """Ask LiveKit in bounded time. What does not exist is dealt with already. Raises `LiveKitUnavailable`."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            yield
    except api.TwirpError as failure:
        if failure.code != api.TwirpErrorCode.NOT_FOUND:
            raise LiveKitUnavailable(f"LiveKit: a room is {undone}: {failure.message}") from failure
    except (aiohttp.ClientError, TimeoutError) as failure:
        raise LiveKitUnavailable(f"LiveKit does not answer: {failure!r}") from failure


class Rooms:
    """LiveKit's room service."""

    def __init__(self, url: str, api_key: str, api_secret: str) -> None:
        http = url.replace("ws", "http", 1) if url.startswith("ws") else url
        self._api = api.LiveKitAPI(http, api_key, api_secret)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.aclose()

    async def delete(self, room: str) -> None:
        """Delete a room and put everybody out of it. A room that does not exist is deleted already.

        Raises:
            LiveKitUnavailable: whether it is deleted is not known; try again.
        """
        async with _asking("not deleted"):
            await self._api.room.delete_room(api.DeleteRoomRequest(room=room))

    async def leave(self, room: str) -> None:
        """Leave a room that is not ours: one user who is alone in it is hung up on, others go on without an agent.

        Raises:
            LiveKitUnavailable: try again.
        """
        found = api.ListParticipantsResponse()
        async with _asking("not left"):
            found = await self._api.room.list_participants(api.ListParticipantsRequest(room=room))
        people = [who for who in found.participants if who.kind not in _MACHINES]
        if len(people) <= 1:
            await self.delete(room)
        elif any(who.identity == agent_identity(room) for who in found.participants):
            who = api.RoomParticipantIdentity(room=room, identity=agent_identity(room))
            async with _asking("not left"):
                await self._api.room.remove_participant(who)

    async def existing(self, names: Collection[str]) -> set[str]:
        """Return which of these rooms there are. Raises `LiveKitUnavailable`."""
        if not names:
            return set()  # without names LiveKit would list every room, those of others too
        found = api.ListRoomsResponse()
        async with _asking("not found"):
            found = await self._api.room.list_rooms(api.ListRoomsRequest(names=list(names)))
        return {room.name for room in found.rooms}

    async def present(self, room: str) -> tuple[Presence, bool]:
        """Return whether the user, and whether an agent, is in a room. Raises `LiveKitUnavailable`."""
        found = api.ListParticipantsResponse()
        async with _asking("not looked at"):
            found = await self._api.room.list_participants(api.ListParticipantsRequest(room=room))
        here = [p for p in found.participants if p.state != ParticipantInfo.State.DISCONNECTED]
        users = [p for p in here if p.kind in _USERS]
        user: Presence = "coming" if users else "gone"
        if any(p.state == ParticipantInfo.State.ACTIVE for p in users):
            user = "there"
        return user, any(p.kind == ParticipantInfo.Kind.AGENT for p in here)

    async def reachable(self) -> str | None:
        """Return None when LiveKit answers and takes our key pair, else why not."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._api.room.list_rooms(api.ListRoomsRequest(names=["-"]))
        except api.TwirpError as failure:
            return f"LiveKit refuses: {failure.message}"
        except (aiohttp.ClientError, TimeoutError) as failure:
            return f"LiveKit does not answer: {str(failure) or type(failure).__name__}"
        return None
