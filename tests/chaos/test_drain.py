"""SIGTERM to a whole node that has no time to drain: its records are right all the same."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chaos.conftest import LONG
from tests.support.drained import alone, old_life_is_over
from tests.support.hurt import connected, talking
from tests.support.node import Node

DRAIN, GOODBYE, CALLS, LINE = (30, 5, 20, 10) if LONG else (8, 2, 4, 2)
SETTINGS: dict[str, Any] = {
    "AGENT_MODULE": "tests.support.agents", "POOL_TARGET": 2, "MAX_SESSIONS": CALLS, "USER_JOIN_SECONDS": 600,
    "DRAIN_SECONDS": DRAIN, "GOODBYE_SECONDS": GOODBYE, "JOIN_TIMEOUT_SECONDS": 60,
}  # fmt: skip


def node_in(folder: Path, **settings: Any) -> Node:
    """Return a node that finds what an earlier one has left in the folder."""
    folder.mkdir(exist_ok=True)
    return Node(folder, NODE_ID=f"drains-{folder.name}", **SETTINGS | settings)


@pytest.mark.timeout(240)
async def test_without_a_drain_the_state_is_consistent_all_the_same(short_folder: Path) -> None:
    folder = short_folder / "nodrain"
    node = node_in(folder, DRAIN_SECONDS=0).start()
    call = None
    try:
        call = await talking(node, "cut", echo=True)
        ready = alone(node, CALLS - 1)
        line = node.begin("line")
        assert line["status"] == "queued"
        assert node.process is not None
        node.process.terminate()
        told = time.monotonic()
        assert await asyncio.to_thread(node.process.wait, 40) == 0
        print(f"without a drain the node ended after {time.monotonic() - told:.1f} s")  # noqa: T201
    finally:
        if call:
            with contextlib.suppress(httpx.HTTPError):
                await call.hang_up()
        node.stop()
    with node_in(folder, DRAIN_SECONDS=0) as again:
        ids = dict.fromkeys([call.session_id, *ready], "ended")
        old_life_is_over(again, ids | {line["sessionId"]: "error"})
        with connected(again) as raw:
            assert not raw.smembers("nodes:draining")
