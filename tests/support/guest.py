"""LiveKit as other programs use it: its API, and participants that join a room with their own token."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self, TypeVar

import aiohttp
from livekit import api, rtc

from tests.support.node import Node

T = TypeVar("T")
AGENT = rtc.ParticipantKind.PARTICIPANT_KIND_AGENT


async def until(look: Callable[[], Awaitable[T]], what: str, seconds: float = 30) -> T:
    """Repeat the question until the answer is true; fails at the deadline with a text that says what was expected."""
    deadline = time.monotonic() + seconds
    while not (found := await look()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.05)
    return found


class LiveKit:
    """The API of a node's LiveKit server."""

    def __init__(self, node: Node, client: api.LiveKitAPI) -> None:
        self.node, self.client = node, client
        self.url = f"ws://127.0.0.1:{node.environment['LIVEKIT_PORT']}"

    @classmethod
    @asynccontextmanager
    async def of(cls, node: Node) -> AsyncIterator[Self]:
        """Connect to a node's LiveKit."""
        keys = (node.secrets["LIVEKIT_API_KEY"], node.secrets["LIVEKIT_API_SECRET"])
        async with api.LiveKitAPI(f"http://127.0.0.1:{node.environment['LIVEKIT_PORT']}", *keys) as client:
            yield cls(node, client)

    async def dispatch(self, room: str, metadata: str = "", name: str = "voice-agent") -> api.AgentDispatch:
        """Dispatch an agent, like `lk dispatch create`."""
        wanted = api.CreateAgentDispatchRequest(agent_name=name, room=room, metadata=metadata)
        return await self.client.agent_dispatch.create_dispatch(wanted)

    async def jobs(self, dispatch: api.AgentDispatch) -> list[api.Job]:
        """Return the jobs of a dispatch that a worker has accepted."""
        found = await self.client.agent_dispatch.list_dispatch(dispatch.room)
        return [job for one in found if one.id == dispatch.id for job in one.state.jobs]

    async def agents(self, room: str) -> list[api.ParticipantInfo]:
        """Return the agents in a room."""
        return [who for who in await self.people(room) if who.kind == api.ParticipantInfo.AGENT]

    async def people(self, room: str) -> list[api.ParticipantInfo]:
        """Return all participants of a room."""
        try:
            found = await self.client.room.list_participants(api.ListParticipantsRequest(room=room))
        except api.TwirpError as failure:
            assert failure.code == api.TwirpErrorCode.NOT_FOUND, failure  # noqa: PT017 - other codes are faults
            return []
        return list(found.participants)

    async def served(self, room: str, seconds: float = 30) -> api.ParticipantInfo:
        """Wait until an agent is in a room; returns it."""
        (agent,) = await until(lambda: self.agents(room), f"an agent is in {room}", seconds)
        return agent

    async def served_again(self, room: str, seconds: float = 60) -> None:
        """Wait until an agent is in a room, while the server may still be starting."""

        async def look() -> list[api.ParticipantInfo]:
            with contextlib.suppress(aiohttp.ClientError):
                return await self.agents(room)
            return []

        await until(look, f"an agent is in {room} again", seconds)

    async def exists(self, room: str) -> bool:
        """Return whether a room exists."""
        return bool((await self.client.room.list_rooms(api.ListRoomsRequest(names=[room]))).rooms)

    def token(
        self, room: str, identity: str, *, kind: str = "standard", config: api.RoomConfiguration | None = None
    ) -> str:
        """Create a token, like a backend that is not ours."""
        secrets = self.node.secrets
        token = api.AccessToken(secrets["LIVEKIT_API_KEY"], secrets["LIVEKIT_API_SECRET"]).with_identity(identity)
        token = token.with_grants(api.VideoGrants(room_join=True, room=room)).with_kind(kind)  # type: ignore[arg-type]
        return (token.with_room_config(config) if config else token).to_jwt()

    @asynccontextmanager
    async def guest(self, token: str) -> AsyncIterator["Guest"]:
        """Join a room, and leave it."""
        guest = Guest()
        try:
            await guest.room.connect(self.url, token)
            yield guest
        finally:
            await guest.room.disconnect()


class Guest:
    """A participant that records the states of the agent."""

    def __init__(self) -> None:
        self.room = rtc.Room()
        self.states: list[str] = []
        self.came: dict[str, float] = {}  #: when each agent was first seen
        self.room.on("participant_connected", self._look)
        self.room.on("participant_attributes_changed", lambda _, who: self._look(who))

    def _look(self, who: rtc.Participant) -> None:
        if isinstance(who, rtc.RemoteParticipant) and who.kind == AGENT:
            self.came.setdefault(who.sid, time.monotonic())
            state = who.attributes.get("lk.agent.state")
            if state and self.states[-1:] != [state]:
                self.states.append(state)

    def agents(self) -> list[rtc.RemoteParticipant]:
        """Return the agents in the room."""
        agents = [who for who in self.room.remote_participants.values() if who.kind == AGENT]
        for who in agents:
            self._look(who)
        return agents

    async def meet(self, seconds: float = 30) -> rtc.RemoteParticipant:
        """Wait until an agent has the state `listening`; returns it."""

        async def listening() -> list[rtc.RemoteParticipant]:
            return [who for who in self.agents() if self.states[-1:] == ["listening"]]

        (agent,) = await until(listening, f"an agent listens (states: {self.states})", seconds)
        return agent
