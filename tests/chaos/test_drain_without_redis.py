"""SIGTERM to a node whose Redis is away: its calls do not need Redis to go on, so they have the same time as ever."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from agents.caller import Call
from tests.chaos.conftest import LONG
from tests.support.hurt import talking
from tests.support.node import Node
from tests.support.processes import alive
from tests.support.refusing import Hurt, Refusing

DRAIN, GOODBYE = (30, 5) if LONG else (8, 3)
SETTINGS: dict[str, Any] = {
    "AGENT_MODULE": "tests.support.agents", "POOL_TARGET": 1, "USER_JOIN_SECONDS": 600,
    "DRAIN_SECONDS": DRAIN, "GOODBYE_SECONDS": GOODBYE,
}  # fmt: skip


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Refusing]:
    with Refusing.running(tmp_path) as found:
        yield found


async def until(look: Callable[[], bool], what: str, seconds: float) -> float:
    """Wait for something beside a call; returns when it was so."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(look):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.02)
    return time.monotonic()


async def heard_until(deadline: float, *calls: Call) -> None:
    while time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        for call in calls:
            assert time.monotonic() - call.last_sound < 2, "a call was cut before the drain was over"


def alone(call: Call) -> bool:
    return not call._room.remote_participants


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("hurt", "back"),
    [(Refusing.gone, False), (Refusing.silent, True)],
    ids=["gone for good", "back meanwhile"],
)
async def test_calls_are_heard_until_the_drain_is_over(
    short_folder: Path, valkey: Refusing, hurt: Hurt, back: bool
) -> None:
    folder = short_folder / f"away-{hurt.__name__}"
    folder.mkdir()
    node = Node(folder, REDIS_URL=valkey.url, **SETTINGS).start()
    calls: list[Call] = []
    try:
        calls = [await talking(node, "polite", do="goodbye", echo=True), await talking(node, "silent", echo=True)]
        polite, silent = calls
        await until(lambda: node.counts()["pool"] == 1, "the pool is full", 30)
        warm = [agent["pid"] for agent in node.agents() if agent["status"] == "ready"]
        assert node.process is not None
        with contextlib.ExitStack() as outage:
            outage.enter_context(hurt(valkey))
            node.process.terminate()
            told = time.monotonic()
            if back:
                await heard_until(told + DRAIN - GOODBYE - 3, *calls)
                outage.close()
            gone = await until(lambda: not any(map(alive, warm)), "the warm agent is gone", 6)
            await heard_until(told + DRAIN - GOODBYE - 0.5, *calls)
            parted = await until(lambda: alone(polite), "its agent has taken its leave", GOODBYE + 3)
            await heard_until(told + DRAIN - 1, silent)
            ended = await until(lambda: alone(silent), "the other one's agent is gone", 12)
            code = await asyncio.to_thread(node.process.wait, 40)
        print(  # noqa: T201
            f"{hurt.__name__}: the warm agent was gone after {gone - told:.1f} s, goodbye was said by "
            f"{parted - told:.1f} s, the other call ended at {ended - told:.1f} s, the node at "
            f"{time.monotonic() - told:.1f} s"
        )
        assert code == 0
        assert DRAIN - GOODBYE - 0.5 <= parted - told < DRAIN + 1
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
        node.stop()  # asserts that nothing is left


def _recorded(valkey: Refusing, polite: Call, silent: Call) -> None:
    with redis.Redis.from_url(valkey.url, decode_responses=True) as raw:
        for call in (polite, silent):
            found = raw.hgetall(f"session:{call.session_id}")
            assert (found["status"], found["reason"]) == ("ended", "the node is stopping")
