"""Agents that a real LiveKit without automatic rooms refuses, on a real Valkey: no warm agent is lost."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from livekit import api, rtc

from agent_runtime.context import AgentContext
from agent_runtime.entrypoint import EntrypointKind
from agent_runtime.runtime import Runtime
from orchestrator.config.agent import AgentSettings
from orchestrator.livekit.room_creation import RoomCreator
from orchestrator.livekit.rooms import Rooms
from orchestrator.livekit.tokens import TokenMinter
from orchestrator.models import Session, new_id
from orchestrator.store import Store
from orchestrator.worker.reconciler import Reconciler
from tests.support import livekit
from tests.support.livekit import KEY, SECRET
from tests.support.pool import assign
from tests.support.relay import enrol, relaying

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A LiveKit server with `room.auto_create: false`."""
    with livekit.server(tmp_path_factory.mktemp("livekit"), auto_create=False) as port:
        yield f"ws://127.0.0.1:{port}"


@pytest.fixture
async def rooms(url: str) -> AsyncIterator[Rooms]:
    async with Rooms(url, KEY, SECRET, empty_seconds=60, departure_seconds=60) as found:
        yield found


async def serve(context: AgentContext) -> None:
    await context.leaving


@asynccontextmanager
async def agents(store: Store, valkey_url: str, url: str, count: int = 3) -> AsyncIterator[list[str]]:
    """Warm agents, each a real runtime behind one relay; they are stopped at the end."""
    # A Unix socket's path must be short, and pytest's folders are long.
    with tempfile.TemporaryDirectory(prefix="vao") as folder:
        async with relaying(Path(folder), valkey_url, "n1"), _agents(store, Path(folder), url, count) as ids:
            yield ids


@asynccontextmanager
async def _agents(store: Store, run_dir: Path, url: str, count: int) -> AsyncIterator[list[str]]:
    await store.beat_node("n1", {"host": 1, "pid": 1, "lastBeat": 1, "life": "n1"}, 60)
    await store.set_target(count)
    settings = AgentSettings(_env_file=None, node_id="n1", run_dir=run_dir, livekit_url=url)  # type: ignore[call-arg]
    ids: list[str] = []
    running: list[asyncio.Task[None]] = []
    try:
        while len(ids) < count:
            for agent_id in await store.reserve_agents([new_id("prewarm") for _ in range(count - len(ids))], "n1"):
                await store.claim_agent(agent_id, "n1")
                enrol(run_dir, agent_id)
                running.append(asyncio.create_task(Runtime(settings, url, agent_id, EntrypointKind(serve)).run()))
                ids.append(agent_id)
                await until(store, agent_id, "ready")
        yield ids
    finally:
        for agent_id in ids:
            stop = json.dumps({"type": "stop", "reason": "the test is over"})
            await store._redis.rpush(f"agent:{agent_id}:inbox", stop)
            await store._redis.rpush("node:n1:mail", agent_id)
        await asyncio.wait(running, timeout=15)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def becomes(look: Callable[[], Awaitable[object]]) -> None:
    """Repeat a check until its result is true."""
    async with asyncio.timeout(60):
        while not await look():  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.02)


async def until(store: Store, agent_id: str, state: str) -> None:
    async def there() -> bool:
        agent = await store.agent(agent_id)
        return agent is not None and agent.state == state

    await becomes(there)


async def act(store: Store, rooms: Rooms, session_id: str, *states: str) -> Session:
    """Process the deadlines as a node does, until the session is in one of these states."""
    reconciler = Reconciler(store, rooms, 3600)
    async with asyncio.timeout(60):
        while True:
            for action in await store.process_deadlines():
                if action.what == "room":
                    await reconciler.make(action.id)
            session = await store.session(session_id)
            if session is not None and session.status in states:
                return session
            await asyncio.sleep(0.05)


def payload(room: str, token: str) -> dict[str, Any]:
    told = {"type": "assign", "room": room, "token": token, "userId": "ada", "metadata": {}}
    return {"room_name": room, "payload": json.dumps(told)}


def minter(secret: str = SECRET, key: str = KEY) -> TokenMinter:
    return TokenMinter(
        key, secret, agent_name="voice-agent", agent_seconds=3000, empty_seconds=100, departure_seconds=70
    )


@asynccontextmanager
async def user(url: str, token: str) -> AsyncIterator[rtc.Room]:
    room = rtc.Room()
    await room.connect(url, token)
    try:
        yield room
    finally:
        with suppress(Exception):
            await room.disconnect()


async def test_a_room_is_created_without_losing_an_agent_when_livekit_creates_none(
    store: Store, raw: redis.Redis, valkey_url: str, url: str, rooms: Rooms
) -> None:
    assert not await rooms.creates_rooms()
    async with agents(store, valkey_url, url) as ids:
        room = new_id("room")
        begun = await assign(store, "ada", **payload(room, minter().for_agent(room)))
        assert begun.outcome == "assigned"
        maker = RoomCreator(rooms)
        await maker.check()
        reconciling = asyncio.create_task(act(store, rooms, begun.session_id, "active", "error", "ended"))
        await maker.ensure(room)  # as the token endpoint does before the user joins
        async with user(url, minter().for_user(room, "user-1")):
            session = await reconciling
        assert (session.status, session.takeovers, session.replacements) == ("active", 0, 0)
        assert raw.hget(f"session:{begun.session_id}", "refused") is None
        assert len(raw.smembers("pool:ready")) == len(ids) - 1


async def test_the_room_is_created_for_the_agent_without_a_user(
    store: Store, raw: redis.Redis, valkey_url: str, url: str, rooms: Rooms
) -> None:
    async with agents(store, valkey_url, url, 2):
        room = new_id("room")
        begun = await assign(store, "ada", **payload(room, minter().for_agent(room)))
        running = asyncio.create_task(act(store, rooms, begun.session_id, "active", "error", "ended"))
        await until(store, begun.agent_id, "running")
        running.cancel()
        assert raw.hget(f"session:{begun.session_id}", "refused") is None
        assert raw.zscore("deadlines", f"room|{begun.session_id}") is None
        assert raw.scard("pool:ready") == 1


async def test_a_session_whose_room_cannot_be_created_ends_with_livekits_reason(
    store: Store, raw: redis.Redis, valkey_url: str, url: str
) -> None:
    async with agents(store, valkey_url, url) as ids, Rooms("ws://127.0.0.1:1", KEY, SECRET) as nobody:
        room = new_id("room")
        begun = await assign(store, "ada", **payload(room, minter().for_agent(room)))
        await becomes(lambda: asyncio.to_thread(raw.hget, f"session:{begun.session_id}", "refused"))
        raw.zadd("deadlines", {f"join|{begun.session_id}": 0})
        session = await act(store, nobody, begun.session_id, "ended", "error")
        assert session.status == "error"
        assert session.reason is not None
        assert session.reason.text == "join_refused: LiveKit refuses the agent: requested room does not exist"
        assert (session.takeovers, session.replacements) == (0, 0)
        assert len(raw.smembers("pool:ready")) == len(ids) - 1


@pytest.mark.parametrize(
    ("secret", "key", "identity", "expected"),
    [
        ("x" * 40, KEY, "", "token signature is invalid"),
        (SECRET, "other", "", "invalid API key: other"),
        (SECRET, KEY, "a" * 300, "participant identity length exceeds limits"),
    ],
)
async def test_a_permanent_refusal_ends_the_session_immediately(  # noqa: PLR0917 - fixtures and cases
    store: Store, raw: redis.Redis, valkey_url: str, url: str, rooms: Rooms,
    secret: str, key: str, identity: str, expected: str,
) -> None:  # fmt: skip
    room = new_id("room")
    token = minter(secret, key).for_agent(room)
    if identity:
        grants = api.VideoGrants(room_join=True, room=room)
        token = api.AccessToken(key, secret).with_identity(identity).with_grants(grants).with_kind("agent").to_jwt()
    async with agents(store, valkey_url, url) as ids:
        begun = await assign(store, "ada", **payload(room, token))
        session = await act(store, rooms, begun.session_id, "error", "ended")
        assert session.status == "error"
        assert session.reason is not None
        assert session.reason.text.startswith("join_refused: LiveKit refuses the agent: ")
        assert expected in session.reason.text
        assert "eyJ" not in session.reason.text
        assert (session.takeovers, session.replacements) == (0, 0)
        assert len(raw.smembers("pool:ready")) == len(ids) - 1
        assert await rooms.reachable() is None, "only this token is refused: LiveKit is up"


async def test_a_ringing_phone_counts_as_a_user_once_it_is_answered(
    store: Store, raw: redis.Redis, valkey_url: str, url: str, rooms: Rooms
) -> None:
    room = new_id("room")
    await rooms.create(room)
    async with agents(store, valkey_url, url, 1):
        begun = await assign(store, "ada", **payload(room, minter().for_agent(room)))
        await until(store, begun.agent_id, "running")
        grants = api.VideoGrants(room_join=True, room=room, can_update_own_metadata=True)
        token = api.AccessToken(KEY, SECRET).with_identity("phone").with_grants(grants).with_kind("sip")
        async with user(url, token.with_attributes({"sip.callStatus": "ringing"}).to_jwt()) as phone:

            async def rings() -> bool:
                return (await rooms.present(room))[0] == "coming"

            await becomes(rings)
            session = await store.session(begun.session_id)
            assert session is not None
            assert session.status == "ready", "the phone is ringing"
            assert raw.zscore("deadlines", f"user|{begun.session_id}"), "the wait for an answer has its own limit"
            assert raw.zscore("deadlines", f"max|{begun.session_id}") is None, "time limits begin at the answer"
            await phone.local_participant.set_attributes({"sip.callStatus": "active"})
            session = await act(store, rooms, begun.session_id, "active")
            assert raw.zscore("deadlines", f"max|{begun.session_id}")
            await phone.local_participant.set_attributes({"sip.callStatus": "hangup"})
            await becomes(lambda: asyncio.to_thread(raw.zscore, "deadlines", f"gone|{begun.session_id}"))
        states = [event["state"] for event in await store.events(begun.session_id, "0-0")]
        assert states.count("user_left") == 1
