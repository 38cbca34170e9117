"""LiveKit's worker protocol with a fake LiveKit, and the handling of names and metadata."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import ANY

import jwt
import pytest
from aiohttp import WSMsgType, web
from livekit.protocol import agent as wire

from orchestrator.api.dispatch import metadata_of, user_of
from orchestrator.errors import InvalidRequest
from orchestrator.livekit import agent_worker as protocol
from orchestrator.livekit.agent_worker import WorkerConnection
from orchestrator.livekit.jobs import Answer, JobOffer, Outcome, WorkerLoad

SECRET = "s" * 40
ROOM = wire.Job(id="AJ_1", dispatch_id="AD_1", metadata="hello")
ROOM.room.name = "lobby"


class Desk:
    """Answers as the test decides."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.answer: Any = Answer(available=True, identity="session_1")
        self.heard: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.wait: asyncio.Event | None = None

    async def on_availability(self, job: JobOffer) -> Answer:
        await self.heard.put(("asked", job))
        if self.wait:
            await self.wait.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        found: Answer = self.answer
        return found

    async def on_assignment(self, job: JobOffer) -> None:
        await self.heard.put(("assigned", job))

    async def on_termination(self, job_id: str) -> None:
        await self.heard.put(("terminated", job_id))

    def running(self) -> list[str]:
        return self.jobs


class Fake:
    """A LiveKit server with only the route `/agent`."""

    def __init__(self) -> None:
        self.sockets: asyncio.Queue[web.WebSocketResponse] = asyncio.Queue()
        self.tokens: list[str] = []
        self.refuse = 0
        self.url = ""
        self.closing = asyncio.Event()
        self.third_try = asyncio.Event()

    async def agent(self, request: web.Request) -> web.StreamResponse:
        self.tokens.append(request.headers["Authorization"].removeprefix("Bearer "))
        if len(self.tokens) == 3:
            self.third_try.set()
        if self.refuse:
            return web.Response(status=self.refuse)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await self.sockets.put(socket)
        await self.closing.wait()
        return socket

    async def connection(self) -> "Connection":
        """Wait for the worker's connection."""
        async with asyncio.timeout(60):
            return Connection(await self.sockets.get())


class Connection:
    """One connection of the worker, from LiveKit's side."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket

    async def next(self, kind: str) -> Any:
        """Return the next message of a kind; only `update_worker` messages may come before it."""
        async with asyncio.timeout(60):
            while True:
                received = await self.socket.receive()
                assert received.type is WSMsgType.BINARY, received
                message = wire.WorkerMessage.FromString(received.data)
                if (found := message.WhichOneof("message")) == kind:
                    return getattr(message, kind)
                assert found == "update_worker", f"{found} before {kind}"

    async def register(self) -> wire.RegisterWorkerRequest:
        """Receive the registration."""
        asked: wire.RegisterWorkerRequest = await self.next("register")
        await self.say(register=wire.RegisterWorkerResponse(worker_id="AW_1"))
        return asked

    async def say(self, **message: Any) -> None:
        await self.socket.send_bytes(wire.ServerMessage(**message).SerializeToString())


@pytest.fixture
async def livekit() -> AsyncIterator[Fake]:
    """A LiveKit to register with."""
    fake, app = Fake(), web.Application()
    app.router.add_get("/base/agent", fake.agent)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/base/"
    yield fake
    fake.closing.set()
    await runner.cleanup()


@asynccontextmanager
async def opened(livekit: Fake, desk: Desk | None = None) -> AsyncIterator[WorkerConnection]:
    door = WorkerConnection(livekit.url, "key", SECRET, "voice-agent", desk or Desk())
    running = asyncio.create_task(door.run())
    try:
        yield door
    finally:
        running.cancel()
        async with asyncio.timeout(60):
            await asyncio.gather(running, return_exceptions=True)


async def test_a_worker_registers_and_reports_its_load_before_any_job(livekit: Fake) -> None:
    async with opened(livekit) as door:
        door.report_load(WorkerLoad(full=False, load=0.5, jobs=2))
        connection = await livekit.connection()
        asked = await connection.register()
        assert (asked.type, asked.agent_name) == (wire.JobType.JT_ROOM, "voice-agent")
        allowed = asked.allowed_permissions
        assert allowed.agent
        assert allowed.can_publish
        assert allowed.can_subscribe
        assert allowed.can_publish_data
        assert allowed.can_update_metadata
        told = await connection.next("update_worker")
        assert (told.status, told.job_count, told.draining) == (wire.WorkerStatus.WS_AVAILABLE, 2, False)
        # LiveKit offers no jobs to a worker with a load of 0.7 or more, so a half full node reports half of that.
        assert told.load == pytest.approx(0.35)
        claims = jwt.decode(livekit.tokens[0], SECRET, algorithms=["HS256"])
        assert claims["video"]["agent"] is True
        assert not {"roomJoin", "roomAdmin", "roomCreate", "roomList"} & claims["video"].keys()


async def test_a_worker_reports_full_until_its_load_is_known(livekit: Fake) -> None:
    async with opened(livekit):
        connection = await livekit.connection()
        await connection.register()
        assert (await connection.next("update_worker")).status == wire.WorkerStatus.WS_FULL


async def test_a_changed_load_is_reported_immediately_and_then_periodically(
    livekit: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "REPORT_SECONDS", 1000)
    async with opened(livekit) as door:
        connection = await livekit.connection()
        await connection.register()
        assert (await connection.next("update_worker")).status == wire.WorkerStatus.WS_FULL
        door.report_load(WorkerLoad(full=False, load=0))
        assert (await connection.next("update_worker")).status == wire.WorkerStatus.WS_AVAILABLE
        monkeypatch.setattr(protocol, "REPORT_SECONDS", 0.01)
        door.report_load(WorkerLoad(full=True, load=1, draining=True))
        for _ in range(3):
            told = await connection.next("update_worker")
            assert (told.status, told.draining) == (wire.WorkerStatus.WS_FULL, True)


async def test_a_job_is_offered_assigned_and_ended(livekit: Fake) -> None:
    desk = Desk()
    async with opened(livekit, desk) as door:
        connection = await livekit.connection()
        await connection.register()
        await connection.say(availability=wire.AvailabilityRequest(job=ROOM))
        answer = await connection.next("availability")
        assert (answer.job_id, answer.available, answer.participant_identity) == ("AJ_1", True, "session_1")
        job = JobOffer("AJ_1", "AD_1", "lobby", "hello", ANY)
        assert await desk.heard.get() == ("asked", job)
        await connection.say(assignment=wire.JobAssignment(job=ROOM, token="not used"))
        assert await desk.heard.get() == ("assigned", job)
        assert await door.report_job("AJ_1", Outcome.RUNNING)
        assert await door.report_job("AJ_1", Outcome.FAILED, "agent_lost: killed")
        running, failed = await connection.next("update_job"), await connection.next("update_job")
        assert (running.job_id, running.status) == ("AJ_1", wire.JobStatus.JS_RUNNING)
        assert (failed.status, failed.error) == (wire.JobStatus.JS_FAILED, "agent_lost: killed")
        await connection.say(termination=wire.JobTermination(job_id="AJ_1"))
        assert await desk.heard.get() == ("terminated", "AJ_1")


async def test_a_late_decision_declines_the_job(livekit: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "ANSWER_SECONDS", 0.05)
    desk = Desk()
    desk.wait = asyncio.Event()
    async with opened(livekit, desk):
        connection = await livekit.connection()
        await connection.register()
        await connection.say(availability=wire.AvailabilityRequest(job=ROOM))
        assert not (await connection.next("availability")).available


async def test_a_slow_decision_delays_no_other(livekit: Fake) -> None:
    desk = Desk()
    desk.wait = asyncio.Event()
    async with opened(livekit, desk):
        connection = await livekit.connection()
        await connection.register()
        await connection.say(availability=wire.AvailabilityRequest(job=ROOM))
        await desk.heard.get()
        await connection.say(termination=wire.JobTermination(job_id="AJ_0"))
        assert await desk.heard.get() == ("terminated", "AJ_0")
        desk.wait.set()
        assert (await connection.next("availability")).available


async def test_a_failed_decision_declines_the_job_and_keeps_the_connection(livekit: Fake) -> None:
    desk = Desk()
    desk.answer = RuntimeError("a fault of ours")
    async with opened(livekit, desk):
        connection = await livekit.connection()
        await connection.register()
        await connection.say(availability=wire.AvailabilityRequest(job=ROOM))
        assert not (await connection.next("availability")).available
        desk.answer = Answer(available=False, terminate=True)
        await connection.say(availability=wire.AvailabilityRequest(job=ROOM))
        again = await connection.next("availability")
        assert (again.available, again.terminate) == (False, True)


async def test_a_reconnected_worker_reports_its_running_jobs(livekit: Fake) -> None:
    desk = Desk()
    async with opened(livekit, desk) as door:
        first = await livekit.connection()
        await first.register()
        desk.jobs = ["AJ_1", "AJ_2"]
        await first.socket.close()
        second = await livekit.connection()
        assert "closed" in door.registration.error
        assert not door.registration.worker_id
        assert not await door.report_job("AJ_1", Outcome.RUNNING) or door.registration.worker_id
        await second.register()
        assert list((await second.next("migrate_job")).job_ids) == ["AJ_1", "AJ_2"]
        assert door.registration.worker_id == "AW_1"


async def test_a_refused_key_pair_has_a_readable_error(livekit: Fake) -> None:
    livekit.refuse = 401
    async with opened(livekit) as door:
        async with asyncio.timeout(60):
            await livekit.third_try.wait()  # it retries without end
        assert door.registration.error == "LiveKit answered 401 at /agent: the key pair is refused"
        assert not door.registration.worker_id
        livekit.refuse = 0
        await (await livekit.connection()).register()


async def test_an_invalid_message_closes_the_connection(livekit: Fake) -> None:
    async with opened(livekit):
        first = await livekit.connection()
        await first.register()
        await first.socket.send_bytes(b"\xff\xff\xff")
        await (await livekit.connection()).register()


async def test_an_unexpected_answer_fails_the_registration(livekit: Fake) -> None:
    async with opened(livekit) as door:
        first = await livekit.connection()
        await first.next("register")
        await first.say(pong=wire.WorkerPong())
        await livekit.connection()
        assert door.registration.error == "LiveKit answered pong to our registration"


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("", {}),
        ('{"name": "Ada", "n": {"a": [1]}}', {"name": "Ada", "n": {"a": [1]}}),
        ("{}", {}),
        ("Ada Lovelace", {"metadata": "Ada Lovelace"}),
        ("[1, 2]", {"metadata": "[1, 2]"}),
        ("42", {"metadata": "42"}),
        ('{"name": ', {"metadata": '{"name": '}),
        ('{"n": NaN}', {"metadata": '{"n": NaN}'}),
        ("[" * 4000, {"metadata": "[" * 4000}),
        ("ü" * 2048, {"metadata": "ü" * 2048}),
    ],
)
def test_metadata_is_an_object_or_a_text(text: str, given: dict[str, Any]) -> None:
    assert metadata_of(text) == given
    json.dumps(metadata_of(text), allow_nan=False)


@pytest.mark.parametrize("text", ["x" * 4097, "ü" * 2049, json.dumps({"x": "y" * 4096})])
def test_metadata_is_bounded(text: str) -> None:
    with pytest.raises(InvalidRequest, match="4096 are the most"):
        metadata_of(text)


def test_two_rooms_never_share_a_user() -> None:
    ours = "0123456789abcdef" * 2
    rooms = [f"room_{ours}", ours, f"room_{ours}0", "lobby", "Lobby", "x" * 122, "x" * 123, "x" * 124, "a\nb", "a b"]
    users = [user_of(room) for room in rooms]
    assert users[0] == f"user-{ours}", "the name that the token endpoint gives its user"
    assert users[3] == "room:lobby"
    assert len(set(users)) == len(rooms)
    # A caller must not be able to choose a room name that equals another room's hash.
    assert user_of(users[7].removeprefix("room-")) != users[7]
    for user in users:
        assert 0 < len(user) <= 128
        assert user.isprintable()
