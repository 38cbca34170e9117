"""LiveKit's room service, without an answer from the server."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from orchestrator.errors import LiveKitUnavailable
from orchestrator.livekit.rooms import Rooms


@pytest.fixture
async def silent() -> AsyncIterator[Rooms]:
    """A room service that accepts connections and never answers, as if it hung."""
    # The listen queue takes the connections; nothing accepts them.
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        async with Rooms(f"ws://127.0.0.1:{server.getsockname()[1]}", "key", "s" * 40) as rooms:
            yield rooms


async def test_a_hung_livekit_is_reported_as_not_answering(silent: Rooms) -> None:
    async with asyncio.timeout(60):
        assert "LiveKit does not answer" in str(await silent.reachable())


async def test_deleting_a_room_times_out(silent: Rooms) -> None:
    async with asyncio.timeout(60):
        with pytest.raises(LiveKitUnavailable, match="does not answer"):
            await silent.delete("room")
