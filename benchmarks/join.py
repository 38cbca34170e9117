"""P3: the time from the request until the user sees an agent with its state set, and until the agent listens."""

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import aiohttp
from livekit import api, rtc

from agent_runtime.context import STATE_ATTRIBUTE
from benchmarks.support import (
    Aim,
    Figure,
    LiveKitWorker,
    livekit_environment,
    note,
    percentile,
    settle,
    short_folder,
)
from tests.support.node import Node

ROUNDS = 20
WARM = 2  #: warm agents, and idle processes of the reference
PATIENCE = 60.0
AIM = Aim("ratio", 0.5)


class Side(ABC):
    """One method to get an agent into a room."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[float] = []  #: ms until the user sees an agent with its state set
        self.listens: list[float] = []  #: ms until that state says that the agent is ready to talk

    @abstractmethod
    async def request(self, user: str) -> tuple[str, str]:
        """Request an agent, and return the user's address and token for LiveKit."""

    @abstractmethod
    async def end(self) -> None:
        """End the session or job."""


MOMENTS: dict[str, Callable[[Side], list[float]]] = {
    "is seen in the room": lambda side: side.seen,
    "listens": lambda side: side.listens,
}


class Ours(Side):
    """Start a session, get a token for it."""

    def __init__(self, node: Node, http: aiohttp.ClientSession) -> None:
        super().__init__("ours")
        self._node, self._http = node, http
        self._sessions: list[str] = []

    async def request(self, user: str) -> tuple[str, str]:
        """Send a request to the API, as an application does."""
        session = await self._post("/api/session/start", {"userId": user})
        assert session["prewarmed"] is True, session
        assert session["sessionId"] not in self._sessions, f"{session['sessionId']} was returned by two starts"
        self._sessions.append(session["sessionId"])
        token = await self._post("/api/token", {"sessionId": session["sessionId"]})
        return token["server_url"], token["participant_token"]

    async def end(self) -> None:
        """Stop the session."""
        for session in self._sessions[-1:]:
            await self._post("/api/session/stop", {"sessionId": session})

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._http.post(self._node.url + path, json=body) as answer:
            found: dict[str, Any] = await answer.json()
            assert answer.ok, found
            return found


class Theirs(Side):
    """Dispatch an agent explicitly and create a token, like an application's own server but without one."""

    def __init__(self, worker: LiveKitWorker, livekit: api.LiveKitAPI, url: str, pair: list[str]) -> None:
        super().__init__(worker.name)
        self._agent, self._livekit = worker.agent_name, livekit
        self._url, self._pair = url, pair
        self._room = ""

    async def request(self, user: str) -> tuple[str, str]:
        """Create the dispatch first, so that the agent joins while the user connects."""
        self._room = f"{self._agent}-{user}"
        request = api.CreateAgentDispatchRequest(agent_name=self._agent, room=self._room)
        await self._livekit.agent_dispatch.create_dispatch(request)
        grants = api.VideoGrants(room_join=True, room=self._room)
        return self._url, api.AccessToken(*self._pair).with_identity(user).with_grants(grants).to_jwt()

    async def end(self) -> None:
        """Delete the room: its job ends."""
        await self._livekit.room.delete_room(api.DeleteRoomRequest(room=self._room))


async def meet(side: Side, user: str) -> tuple[float, float]:
    """Return the ms from the request until the user sees an agent with its state set, and until it listens."""
    room = rtc.Room()
    seen: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    listens: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def look(*_: object) -> None:
        for participant in room.remote_participants.values():
            state = participant.attributes.get(STATE_ATTRIBUTE)
            if participant.kind != rtc.ParticipantKind.PARTICIPANT_KIND_AGENT or not state:
                continue
            if not seen.done():
                seen.set_result(time.perf_counter())
            if state != "initializing" and not listens.done():
                listens.set_result(time.perf_counter())

    room.on("participant_connected", look)
    room.on("participant_attributes_changed", look)
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE):
            url, token = await side.request(user)
            await room.connect(url, token)
            look()
            return (await seen - begun) * 1000, (await listens - begun) * 1000
    finally:
        await room.disconnect()
        await side.end()


def measure() -> list[Figure]:
    """Measure all sides in turn, each time when everything has settled."""
    with short_folder() as folder, contextlib.ExitStack() as stack:
        (folder / "node").mkdir()
        note("P3: starts a node and livekit-agents' workers")
        node = stack.enter_context(Node(folder / "node", POOL_TARGET=WARM))
        prewarm = stack.enter_context(LiveKitWorker(node, folder, idle=WARM, models="prewarm").up())
        preload = stack.enter_context(LiveKitWorker(node, folder, idle=WARM, models="preload").up())
        return asyncio.run(_compare(node, prewarm, preload))


async def _compare(node: Node, *references: LiveKitWorker) -> list[Figure]:
    url, *pair = livekit_environment(node).values()
    async with (
        aiohttp.ClientSession() as http,
        api.LiveKitAPI(url.replace("ws", "http", 1), *pair, session=http) as livekit,
    ):
        ours = Ours(node, http)
        theirs = [Theirs(worker, livekit, url, pair) for worker in references]
        for number in range(-1, ROUNDS):  # the first round is not counted: it loads the client's own parts
            for side in (ours, *theirs):
                await asyncio.to_thread(settle, node, references)
                seen, listens = await meet(side, f"user{number}")
                if number >= 0:
                    side.seen.append(seen)
                    side.listens.append(listens)
            note(f"P3: round {number + 1} of {ROUNDS}")
        await asyncio.to_thread(settle, node, references)
    return [
        Figure(f"request until the agent {what}, p{share:.0%}".rstrip("%"), percentile(of(ours), share), "ms",
               percentile(of(side), share), side.name,
               AIM if (what, share, side) == ("is seen in the room", 0.5, theirs[0]) else None)
        for side in theirs
        for what, of in MOMENTS.items()
        for share in (0.5, 0.9)
    ]  # fmt: skip
