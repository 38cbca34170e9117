"""LiveKit's room service: creates and deletes rooms, asks who is in them, and whether LiveKit answers."""

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

#: Whether the user is in a room. `coming`: the media connection is not ready yet, or the phone has not been answered.
Presence = Literal["there", "coming", "gone"]

#: Time limit of one request. The client's own timeout has no effect: it passes None to aiohttp with each request.
REQUEST_SECONDS = 3.0
#: Bytes of an answer that are read.
MAX_ANSWER_BYTES = 2000
_LIST_ROOMS = "/twirp/livekit.RoomService/ListRooms"
#: Errors of a LiveKit that is unreachable, has no address, or is something else, as the page of a proxy.
_NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError, DecodeError, UnicodeError)
#: Kinds of participants that are not people.
_MACHINES = frozenset({ParticipantInfo.AGENT, ParticipantInfo.EGRESS})


@contextlib.asynccontextmanager
async def _request(failed: str) -> AsyncIterator[None]:
    """Bound a request in time, and ignore that its object does not exist. Raises `LiveKitUnavailable`.

    `failed`: what did not happen to the room, for the error.
    """
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            yield
    except api.TwirpError as failure:
        if failure.code != api.TwirpErrorCode.NOT_FOUND:
            why = refusals.readable(failure.message) or f"it answers {failure.status}"
            raise LiveKitUnavailable(f"LiveKit: a room is {failed}: {why}") from failure
    except _NO_ANSWER as failure:
        raise LiveKitUnavailable(f"LiveKit does not answer: {failure!r}") from failure


class Rooms:
    """LiveKit's room service.

    Args:
        empty_seconds, departure_seconds: how long LiveKit keeps a room that is created here, as in the tokens
            (`TokenMinter`); 0: LiveKit's own setting.
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
        """Delete a room and disconnect everybody in it. Succeeds if the room does not exist.

        Raises:
            LiveKitUnavailable: the room may still exist; try again.
        """
        async with _request("not deleted"):
            await self._api.room.delete_room(api.DeleteRoomRequest(room=room))

    async def leave(self, room: str) -> None:
        """Remove our agent from a room that we did not name.

        A user who is alone in it is disconnected; several people may stay without an agent.

        Raises:
            LiveKitUnavailable: try again.
        """
        participants = await self._participants(room, "not left")
        people = [participant for participant in participants if participant.kind not in _MACHINES]
        if len(people) <= 1:
            await self.delete(room)
        elif any(participant.identity == agent_identity(room) for participant in participants):
            agent = api.RoomParticipantIdentity(room=room, identity=agent_identity(room))
            async with _request("not left"):
                await self._api.room.remove_participant(agent)

    async def existing(self, names: Collection[str]) -> set[str]:
        """Return which of these rooms exist. Raises `LiveKitUnavailable`."""
        if not names:
            return set()  # without names LiveKit would list every room of every application
        listing = api.ListRoomsResponse()
        async with _request("not found"):
            listing = await self._api.room.list_rooms(api.ListRoomsRequest(names=list(names)))
        return {room.name for room in listing.rooms}

    async def present(self, room: str) -> tuple[Presence, bool]:
        """Return whether the user, and whether an agent, is in a room. Raises `LiveKitUnavailable`."""
        participants = await self._participants(room, "not checked")
        here = [p for p in participants if p.state != ParticipantInfo.State.DISCONNECTED]
        users = [p for p in here if _kind(p) in presence.USER_KINDS and not _hung_up(p)]
        user: Presence = "coming" if users else "gone"
        if any(p.state == ParticipantInfo.State.ACTIVE and presence.answered(_kind(p), p.attributes) for p in users):
            user = "there"
        return user, any(p.kind == ParticipantInfo.Kind.AGENT for p in here)

    async def _participants(self, room: str, failed: str) -> list[ParticipantInfo]:
        listing = api.ListParticipantsResponse()
        async with _request(failed):
            listing = await self._api.room.list_participants(api.ListParticipantsRequest(room=room))
        return list(listing.participants)

    async def create(self, room: str) -> None:
        """Create a room; one that exists stays as it is. Raises `LiveKitUnavailable`."""
        async with _request("not created"):
            await self._api.room.create_room(
                api.CreateRoomRequest(name=room, empty_timeout=self._empty, departure_timeout=self._departure)
            )

    async def creates_rooms(self) -> bool:
        """Return whether LiveKit creates a room when its first participant joins (auto_create).

        Raises:
            LiveKitUnavailable: it does not answer.
        """
        grants = api.VideoGrants(room_join=True, room="-")
        status, text, _ = await self._ask("GET", "/rtc/validate", grants)
        return not (status == 404 and "room does not exist" in text)

    async def reachable(self) -> str | None:
        """Return None if LiveKit answers and accepts our key pair and clock, else why not, with LiveKit's message."""
        try:
            status, text, skew = await self._ask("POST", _LIST_ROOMS, api.VideoGrants(room_list=True))
        except LiveKitUnavailable as failure:
            return failure.detail
        # guard: not-livekit
        if status == HTTPStatus.OK and not text.lstrip().startswith("{"):
            return f"LiveKit does not answer: something else does, with {refusals.readable(text) or 'nothing'}"
        if status == HTTPStatus.OK:
            # A clock that is this far behind makes users' tokens that have expired already.
            if skew < -TOKEN_LIFETIME.total_seconds():
                return f"LiveKit would refuse every user: {refusals.describe_skew(skew)}"
            return None
        return f"LiveKit refuses: {refusals.explained(text or f'it answers {status}', skew)}"

    async def _ask(self, method: str, path: str, grants: api.VideoGrants) -> tuple[int, str, float]:
        """Send a request without LiveKit's client, which drops the message of a refusal.

        Returns:
            The status, the text, and the seconds that our clock is ahead of LiveKit's.
        """
        token = api.AccessToken(self._key, self._secret).with_grants(grants).with_identity("-").to_jwt()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = b'{"names":["-"]}' if method == "POST" else None
        try:
            async with (
                # guard: livekit-hangs
                asyncio.timeout(REQUEST_SECONDS),
                aiohttp.ClientSession() as http,
                http.request(method, self._http + path, headers=headers, data=body) as answer,
            ):
                text = (await answer.content.read(MAX_ANSWER_BYTES)).decode(errors="replace")
                return answer.status, text, refusals.skew(answer.headers.get("Date"))
        except _NO_ANSWER as failure:
            raise LiveKitUnavailable(f"LiveKit does not answer: {str(failure) or type(failure).__name__}") from failure


def _kind(participant: ParticipantInfo) -> str:
    return ParticipantInfo.Kind.Name(participant.kind)


def _hung_up(participant: ParticipantInfo) -> bool:
    return participant.attributes.get(presence.CALL_STATUS, "").lower() == "hangup"
