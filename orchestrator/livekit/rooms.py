"""Deletes rooms on the LiveKit server, asks who is in them, and whether it answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from http import HTTPStatus
from typing import Literal, Self

import aiohttp
from google.protobuf.message import DecodeError
from livekit import api
from livekit.protocol.models import ParticipantInfo

from orchestrator.errors import LiveKitUnavailable
from orchestrator.livekit import presence, refusals
from orchestrator.livekit.tokens import TOKEN_LIFETIME, agent_identity

#: Whether the user is in a room; `coming`: connected, and media cannot flow yet, or a phone that nobody has answered.
Presence = Literal["there", "coming", "gone"]

#: Seconds that one request may take. The client's own time-out does not hold: it gives aiohttp None for each request.
REQUEST_SECONDS = 3.0
#: Most of an answer that is read, in bytes.
LONGEST_ANSWER = 2000
_LIST_ROOMS = "/twirp/livekit.RoomService/ListRooms"
#: What comes of a LiveKit that is away, cannot be named, or is not one: a proxy's page is no answer either.
_NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError, DecodeError, UnicodeError)
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
            why = refusals.told(failure.message) or f"it answers {failure.status}"
            raise LiveKitUnavailable(f"LiveKit: a room is {undone}: {why}") from failure
    except _NO_ANSWER as failure:
        raise LiveKitUnavailable(f"LiveKit does not answer: {failure!r}") from failure


class Rooms:
    """LiveKit's room service.

    Args:
        empty_seconds, departure_seconds: how long LiveKit keeps a room made here, as in the tokens (`TokenMinter`);
            0: as LiveKit is set up.
    """

    def __init__(
        self, url: str, api_key: str, api_secret: str, *, empty_seconds: int = 0, departure_seconds: int = 0
    ) -> None:
        self._http = (url.replace("ws", "http", 1) if url.startswith("ws") else url).rstrip("/")
        self._key, self._secret = api_key, api_secret
        self._empty, self._departure = empty_seconds, departure_seconds
        self._api = api.LiveKitAPI(self._http, api_key, api_secret)

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
        users = [p for p in here if _kind(p) in presence.USER_KINDS and not _hung_up(p)]
        user: Presence = "coming" if users else "gone"
        if any(p.state == ParticipantInfo.State.ACTIVE and presence.answered(_kind(p), p.attributes) for p in users):
            user = "there"
        return user, any(p.kind == ParticipantInfo.Kind.AGENT for p in here)

    async def create(self, room: str) -> None:
        """Make a room, where LiveKit makes none by itself; one that exists stays. Raises `LiveKitUnavailable`."""
        async with _asking("not made"):
            await self._api.room.create_room(
                api.CreateRoomRequest(name=room, empty_timeout=self._empty, departure_timeout=self._departure)
            )

    async def makes_rooms(self) -> bool:
        """Return whether LiveKit makes a room for whoever joins first (auto_create). Raises `LiveKitUnavailable`."""
        grants = api.VideoGrants(room_join=True, room="-")
        status, said, _ = await self._ask("GET", "/rtc/validate", grants)
        return not (status == 404 and "room does not exist" in said)

    async def reachable(self) -> str | None:
        """Return None when LiveKit answers and takes our key pair and clock, else why not, in LiveKit's own words."""
        try:
            status, said, skew = await self._ask("POST", _LIST_ROOMS, api.VideoGrants(room_list=True))
        except LiveKitUnavailable as failure:
            return failure.detail
        if status == HTTPStatus.OK and not said.lstrip().startswith("{"):
            return f"LiveKit does not answer: something else does, with {refusals.told(said) or 'nothing'}"
        if status == HTTPStatus.OK:
            # Tokens of users are good for so long: they would be too old when they are made.
            if skew < -TOKEN_LIFETIME.total_seconds():
                return f"LiveKit would refuse every user: {refusals.skewed(skew)}"
            return None
        return f"LiveKit refuses: {refusals.explained(said or f'it answers {status}', skew)}"

    async def _ask(self, method: str, path: str, grants: api.VideoGrants) -> tuple[int, str, float]:
        """Ask LiveKit without its client, which drops the words of a refusal. Returns the status, what it says, and the
        seconds that our clock is ahead of its."""
        token = api.AccessToken(self._key, self._secret).with_grants(grants).with_identity("-").to_jwt()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = b'{"names":["-"]}' if method == "POST" else None
        try:
            async with (
                asyncio.timeout(REQUEST_SECONDS),
                aiohttp.ClientSession() as http,
                http.request(method, self._http + path, headers=headers, data=body) as answer,
            ):
                said = (await answer.content.read(LONGEST_ANSWER)).decode(errors="replace")
                return answer.status, said, refusals.skew(answer.headers.get("Date"))
        except _NO_ANSWER as failure:
            raise LiveKitUnavailable(f"LiveKit does not answer: {str(failure) or type(failure).__name__}") from failure


def _kind(who: ParticipantInfo) -> str:
    return ParticipantInfo.Kind.Name(who.kind)


def _hung_up(who: ParticipantInfo) -> bool:
    return who.attributes.get(presence.CALL_STATUS, "").lower() == "hangup"
