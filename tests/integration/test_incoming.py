"""The data that a caller sends to its agent is bounded, in a real room, even if the agent never reads it."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from livekit import api, rtc

from agent_runtime import incoming
from agent_runtime.context import AgentContext
from orchestrator.reasons import Reason, because
from tests.support import livekit

pytestmark = pytest.mark.thorough

CHUNK = 15_000
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with livekit.server(tmp_path_factory.mktemp("livekit")) as port:
        yield f"ws://127.0.0.1:{port}"


def token(identity: str, room: str) -> str:
    made = api.AccessToken(livekit.KEY, livekit.SECRET).with_identity(identity)
    return made.with_grants(api.VideoGrants(room_join=True, room=room)).to_jwt()


class Pair:
    """An agent that may receive a megabyte and never reads its byte streams, and its caller."""

    def __init__(self) -> None:
        self.agent, self.caller = rtc.Room(), rtc.Room()
        self.kept: list[rtc.ByteStreamReader] = []
        self.failures: asyncio.Queue[str] = asyncio.Queue()
        self.texts: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def joined(self, url: str, room: str) -> AsyncIterator["Pair"]:
        self.context = AgentContext(
            session_id="s", user_id="u", metadata={}, room=self.agent, url=url, token=token("agent", room)
        )
        incoming.watch(self.context, 1)
        self.agent.register_byte_stream_handler("kept", lambda reader, _: self.kept.append(reader))
        self.agent.register_text_stream_handler("read", self._read)
        await self.agent.connect(url, token("agent", room), incoming.OPTIONS)
        self.agent.local_participant.register_rpc_method("known", self._called)
        await self.caller.connect(url, token("caller", room))
        try:
            yield self
        finally:
            await self.caller.disconnect()
            await self.agent.disconnect()

    async def _called(self, _: rtc.RpcInvocationData) -> str:
        return ""

    def _read(self, reader: rtc.TextStreamReader, _: str) -> None:
        async def read() -> None:
            try:
                self.texts.append(await reader.read_all())
            except ConnectionError as failure:
                self.failures.put_nowait(str(failure))

        task = asyncio.create_task(read())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def until_it_leaves(self, send: Callable[[], Awaitable[object]]) -> tuple[str, Reason]:
        """Send repeatedly until the agent leaves; returns how it ended."""
        async with asyncio.timeout(60):
            while not self.context.leaving.done():
                await send()
                await asyncio.sleep(0)
        return self.context.leaving.result()


async def test_a_call_ends_when_its_caller_sends_too_much_data(url: str) -> None:
    noise = os.urandom(CHUNK)
    async with Pair().joined(url, "streams") as pair:
        writer = await pair.caller.local_participant.stream_bytes("f", topic="kept")
        assert await pair.until_it_leaves(lambda: writer.write(noise)) == ("ended", because("too_much_data"))
        held = sum(reader._queue.qsize() for reader in pair.kept) * CHUNK
        assert held < 4 * MEGABYTE, "it left immediately"


@pytest.mark.parametrize("what", ["packets", "small packets", "many streams", "calls"])
async def test_every_kind_of_incoming_data_is_limited(url: str, what: str) -> None:
    async with Pair().joined(url, what.replace(" ", "-")) as pair:
        caller = pair.caller.local_participant

        async def call() -> None:
            with contextlib.suppress(rtc.RpcError):
                await caller.perform_rpc(destination_identity="agent", method="known", payload="z" * 14_000)

        async def stream() -> None:
            await (await caller.stream_bytes("f", topic="nobody", attributes={"a": "x" * 5000})).aclose()

        sends: dict[str, Callable[[], Awaitable[object]]] = {
            "packets": lambda: caller.publish_data(os.urandom(CHUNK)),
            "small packets": lambda: caller.publish_data(b"x"),
            "many streams": stream,
            "calls": call,
        }
        assert await pair.until_it_leaves(sends[what]) == ("ended", because("too_much_data"))


async def test_an_oversized_compressed_stream_is_cut_and_the_chat_continues(url: str) -> None:
    async with Pair().joined(url, "packed") as pair:
        caller = pair.caller.local_participant
        for _ in range(50):
            await caller.send_text("how are you?", topic="read")
        await caller.send_text("y" * (2 * incoming.STREAM_BYTES), topic="read")
        assert "exceeds" in await asyncio.wait_for(pair.failures.get(), 20)
        assert len(pair.texts) == 50
        assert not pair.context.leaving.done()


def test_the_budget_is_refilled_over_time() -> None:
    now = 0.0
    budget = incoming.Budget(MEGABYTE, lambda: now)
    assert budget.spend(MEGABYTE - 1)
    assert not budget.spend(2), "every message counts as at least a kilobyte"
    now = incoming.REFILL_SECONDS / 2
    assert budget.spend(MEGABYTE // 3)
    assert not budget.spend(MEGABYTE // 2)
