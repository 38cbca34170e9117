"""Services that run as long as their program continue after an unexpected exception."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api import change_feed
from orchestrator.clock import SystemClock
from orchestrator.livekit import room_creation
from orchestrator.settings import Settings
from orchestrator.worker.boots import Boots
from orchestrator.worker.canary import Canary
from orchestrator.worker.drain_watch import DrainWatch
from orchestrator.worker.headroom import Headroom
from orchestrator.worker.heartbeat import Heartbeat
from orchestrator.worker.host_link import HostLink, HostWatch
from orchestrator.worker.log_shipper import LogShipper
from orchestrator.worker.pool_keeper import PoolKeeper
from orchestrator.worker.service import Background, LoopService, Periodic
from orchestrator.worker.set_up import SetUp
from orchestrator.worker.stops import Stops
from orchestrator.worker.task_queue import TaskQueue


class Broken:
    """Raises an unexpected exception at every call, and counts the calls."""

    def __init__(self) -> None:
        self.asked = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def fail(*_: object) -> None:
            self.asked += 1
            raise RuntimeError(f"{name} is broken")

        return fail


class Agreeing(Broken):
    """The same, once the node has begun."""

    async def check_schema(self) -> None: ...

    async def undrain_node(self, _: str) -> None: ...


async def goes_on(loop: Any, broken: Broken) -> None:
    running = asyncio.create_task(loop)
    try:
        async with asyncio.timeout(60):
            while broken.asked < 3:  # noqa: ASYNC110 - the counter has no event
                await asyncio.sleep(0.01)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_change_feed_survives_unexpected_errors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(change_feed, "RETRY_SECONDS", 0.01)
    store = Broken()
    with caplog.at_level(logging.ERROR):
        await goes_on(change_feed.ChangeFeed(store).run(), store)  # type: ignore[arg-type]
    assert "last_change is broken" in caplog.text


async def test_the_check_of_room_creation_survives_unexpected_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_creation, "RETRY_SECONDS", 0.01)
    rooms = Broken()
    await goes_on(room_creation.RoomCreator(rooms).watch(), rooms)  # type: ignore[arg-type]


class Hasty(SystemClock):
    """A clock that does not wait."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0.001)


def the_nodes_loops(broken: Any, folder: Path) -> dict[str, LoopService]:
    """The services of a node, with `broken` as the store and the agent host."""
    settings, clock = Settings(node_id="n1", run_dir=folder), Hasty()
    link, background = HostLink(clock), Background()
    nothing = TaskQueue(lambda *_: None, lambda: None, lambda _: None, lambda *_: None)
    logs, stops = LogShipper(broken, folder, 1), Stops(settings, broken, link, nothing)
    headroom, drain = Headroom(settings), DrainWatch(nothing, background)
    pool = PoolKeeper(
        settings, broken, clock, boots=Boots(settings, broken, link, logs), stops=stops, drain=drain,
        headroom=headroom, background=background,
    )  # fmt: skip
    set_up = SetUp(settings, broken, clock, link=link, before_starts=broken.report, refill=pool.refill_soon)
    return {
        "heartbeat": Heartbeat(
            settings, broken, clock, link=link, headroom=headroom, canary=Canary(broken, clock, lambda: None),
            set_up=set_up, drain=drain,
        ),
        "pool": pool,
        "host": HostWatch(
            link, broken.connect, clock, on_death=broken.died, compare=broken.compare, on_connected=lambda: None
        ),
        "periodic": Periodic("broken work", 1, broken.work, clock),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["heartbeat", "pool", "host", "periodic"])
async def test_each_loop_of_the_node_survives_unexpected_errors(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, name: str
) -> None:
    store = Agreeing()
    with caplog.at_level(logging.ERROR):
        await goes_on(the_nodes_loops(store, tmp_path)[name].run(), store)
    assert "is broken" in caplog.text
