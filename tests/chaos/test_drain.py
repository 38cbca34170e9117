"""SIGTERM to a whole node without time to drain: its records are still correct."""

import asyncio
import contextlib
import time
from pathlib import Path

import httpx
import pytest

from tests.chaos.conftest import LONG
from tests.support.drained import alone, node_in, old_life_is_over
from tests.support.hurt import connected, talking

CALLS = 20 if LONG else 4


@pytest.mark.timeout(240)
async def test_records_are_correct_after_a_stop_without_a_drain(short_folder: Path) -> None:
    folder = short_folder / "nodrain"
    settings = {"DRAIN_SECONDS": 0, "MAX_SESSIONS": CALLS}
    node = node_in(folder, **settings).start()
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
    with node_in(folder, **settings) as again:
        ids = dict.fromkeys([call.session_id, *ready], "ended")
        old_life_is_over(again, ids | {line["sessionId"]: "error"})
        with connected(again) as raw:
            assert not raw.smembers("nodes:draining")
