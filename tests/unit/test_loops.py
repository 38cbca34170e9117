"""What runs for as long as its program does goes on after a failure that nobody has thought of."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api import feed
from orchestrator.livekit import making
from orchestrator.settings import Settings
from orchestrator.worker.node_watch import Celery, NodeWatch


class Broken:
    """Fails at everything that it is asked for, in a way of its own, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def fail(*_: object) -> None:
            self.asked += 1
            raise RuntimeError(f"{name} is broken")

        return fail


class Agreeing(Broken):
    """The same, once the node has begun."""

    async def agree(self) -> None: ...

    async def undrain_node(self, _: str) -> None: ...


async def goes_on(loop: Any, broken: Broken) -> None:
    running = asyncio.create_task(loop)
    try:
        async with asyncio.timeout(10):
            while broken.asked < 3:  # noqa: ASYNC110 - it is counted elsewhere
                await asyncio.sleep(0.01)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_feed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(feed, "RETRY_SECONDS", 0.01)
    store = Broken()
    with caplog.at_level(logging.ERROR):
        await goes_on(feed.Feed(store).run(), store)  # type: ignore[arg-type]
    assert "last_change is broken" in caplog.text


async def test_the_look_at_how_livekit_makes_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "AGAIN_SECONDS", 0.01)
    rooms = Broken()
    await goes_on(making.RoomMaker(rooms).watch(), rooms)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["_beat_node", "_watch_pool", "_watch_host"])
async def test_a_loop_of_the_node(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, name: str
) -> None:
    for pause in ("RECONNECT_SECONDS", "NODE_BEAT_SECONDS"):
        monkeypatch.setattr(f"orchestrator.worker.node_watch.{pause}", 0.01)
    nothing = Celery(lambda *_: None, lambda: None, lambda _: None, lambda *_: None)
    watch = NodeWatch(Settings(node_id="n1", run_dir=tmp_path), nothing)
    store = Agreeing()
    watch._store = store  # type: ignore[assignment]
    watch._loop.close()

    async def connect(*_: object) -> None:
        await store.connect()

    monkeypatch.setattr("orchestrator.host.client.HostClient.connect", connect)
    with caplog.at_level(logging.ERROR):
        await goes_on(getattr(watch, name)(), store)
    assert "is broken" in caplog.text
