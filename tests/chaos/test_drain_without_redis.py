"""SIGTERM to a node without Redis: its calls can continue without Redis, so they get the usual time."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from orchestrator.call.caller import Call
from orchestrator.machine import shutdown_notice
from tests.chaos.conftest import LONG
from tests.support.hurt import talking
from tests.support.node import Node
from tests.support.processes import alive, poll
from tests.support.refusing import Hurt, Refusing

DRAIN, GOODBYE = (30, 5) if LONG else (8, 3)
SETTINGS: dict[str, Any] = {
    "AGENT_MODULE": "tests.support.agents", "POOL_TARGET": 1, "USER_JOIN_SECONDS": 600,
    "DRAIN_SECONDS": DRAIN, "GOODBYE_SECONDS": GOODBYE,
}  # fmt: skip
#: The drain program reports its remaining time to the API, once that answers, in tenths of a second.
ROUNDING = 0.1


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Refusing]:
    with Refusing.running(tmp_path) as found:
        yield found


class Parting:
    """The time when a call's agent left its room, by the machine's clock, which the node's notice uses too."""

    def __init__(self, call: Call) -> None:
        self._at: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        call._room.on("participant_disconnected", self._left)
        call._room.on("disconnected", self._left)

    def _left(self, *_: object) -> None:
        if not self._at.done():
            self._at.set_result(time.monotonic())

    async def at(self) -> float:
        """Wait for it."""
        async with asyncio.timeout(DRAIN + 30):
            return await self._at


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("hurt", "back"),
    [(Refusing.gone, False), (Refusing.silent, True)],
    ids=["gone for good", "back meanwhile"],
)
async def test_calls_continue_without_redis_until_the_end_of_the_drain(
    short_folder: Path, valkey: Refusing, hurt: Hurt, back: bool
) -> None:
    folder = short_folder / f"away-{hurt.__name__}"
    folder.mkdir()
    node = Node(folder, REDIS_URL=valkey.url, **SETTINGS).start()
    calls: list[Call] = []
    try:
        calls = [await talking(node, "polite", do="goodbye", echo=True), await talking(node, "silent", echo=True)]
        polite, silent = calls
        partings = [Parting(call) for call in calls]
        await asyncio.to_thread(poll, lambda: node.counts()["pool"] == 1, "the pool is full", 30)
        warm = [agent["pid"] for agent in node.agents() if agent["status"] == "ready"]
        assert node.process is not None
        with contextlib.ExitStack() as outage:
            outage.enter_context(hurt(valkey))
            told = time.monotonic()
            node.process.terminate()
            notice = await asyncio.to_thread(poll, lambda: shutdown_notice.read(folder), "the agents have a notice")
            assert notice is not None
            for call in calls:
                await call.next_sound()
            if back:
                outage.close()
            await asyncio.to_thread(poll, lambda: not any(map(alive, warm)), "the warm agent is gone")
            parted, ended = [await parting.at() for parting in partings]
            code = await asyncio.to_thread(node.process.wait, 40)
        print(f"{hurt.__name__}: the node ended after {time.monotonic() - told:.1f} s")  # noqa: T201
        _calls_had_their_time(notice, told, parted, ended)
        assert silent.last_sound > notice.goodbye_at
        assert code == 0
        assert "without" not in (said := (folder / "up.log").read_text()).partition("Draining")[2], said
        if back:
            _recorded(valkey, polite, silent)
        else:
            logs = [file.read_text() for file in (folder / "agents").glob("*.log")]
            assert sum("has said goodbye" in each for each in logs) == 1
    finally:
        for call in calls:
            with contextlib.suppress(httpx.HTTPError):
                await call.hang_up()
        node.stop()  # asserts that no process is left


def _calls_had_their_time(notice: shutdown_notice.Notice, told: float, parted: float, ended: float) -> None:
    """No call was cut short; the one that says no goodbye went on while the other said it."""
    print(f"goodbye was said by {parted - told:.1f} s, the other call ended at {ended - told:.1f} s")  # noqa: T201
    assert notice.over_at >= told + DRAIN
    assert notice.goodbye_at == pytest.approx(notice.over_at - GOODBYE)
    assert parted >= notice.goodbye_at - ROUNDING
    assert ended >= notice.over_at - ROUNDING


def _recorded(valkey: Refusing, polite: Call, silent: Call) -> None:
    with redis.Redis.from_url(valkey.url, decode_responses=True) as raw:
        for call in (polite, silent):
            found = raw.hgetall(f"session:{call.session_id}")
            assert (found["status"], found["reason"]) == ("ended", "the node is stopping")
