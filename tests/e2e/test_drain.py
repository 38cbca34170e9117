"""SIGTERM to a whole node: starts are refused immediately, calls continue to their end, nothing is left behind."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.call.caller import Call
from tests.support.agreement import os_agents
from tests.support.drained import alone, answer, node_in, old_life_is_over, within
from tests.support.hurt import connected, moment, talking
from tests.support.node import Node
from tests.support.processes import alive

DRAIN, GOODBYE, CALLS, LINE = 14, 4, 4, 2
SETTINGS = {"MAX_SESSIONS": CALLS, "DRAIN_SECONDS": DRAIN, "GOODBYE_SECONDS": GOODBYE}


async def refuses(node: Node, line: list[dict[str, Any]], silent: Call) -> None:
    """A draining node refuses starts immediately and ends queued sessions; calls continue."""
    await within(20, lambda: answer(node, "GET", "/readyz")[0] == 503, "/readyz is 503")
    status, body, headers = answer(node, "POST", "/api/session/start", json={"userId": "late"})
    assert (status, body["code"]) == (503, "draining")
    assert int(headers["Retry-After"]) >= DRAIN
    await silent.next_sound()
    for each in line:
        found = node.session(each["sessionId"])
        assert (found["status"], found["reason"].partition(":")[0]) == ("error", "node_draining")


async def ends_with_its_last_call(node: Node) -> None:
    """The node stops when its last call ends, before the end of the drain's time limit."""
    call = await talking(node, "brief", echo=True)
    assert node.process is not None
    node.process.terminate()
    await within(20, lambda: answer(node, "GET", "/readyz")[0] == 503, "it drains")
    assert await call.next_sound() > 0
    await call.hang_up()
    assert await asyncio.to_thread(node.process.wait, 60) == 0, "it does not wait for the time limit"


@pytest.mark.timeout(300)
async def test_calls_continue_until_the_end_of_the_drain(short_folder: Path) -> None:
    folder = short_folder / "drain"
    node = node_in(folder, **SETTINGS).start()
    calls: list[Call] = []
    try:
        calls = [await talking(node, "polite", do="goodbye", echo=True), await talking(node, "silent", echo=True)]
        ready = alone(node, CALLS - 2)
        line = [node.begin(f"line{number}") for number in range(LINE)]
        assert {each["status"] for each in line} == {"queued"}
        await within(30, lambda: node.counts()["pool"] == 2, "the pool is full")
        warm = [agent["pid"] for agent in node.agents() if agent["status"] == "ready"]
        assert node.process is not None
        polite, silent = calls
        with connected(node) as raw:
            node.process.terminate()
            await refuses(node, line, silent)
            began = moment(raw, line[0]["sessionId"], "error")
            await within(10, lambda: not any(alive(pid) for pid in warm), "the warm agents are gone")
            # An agent that was booting exits once it is warm.
            await within(10, lambda: len(os_agents(node)) == CALLS, "only the agents of calls are left")
            assert answer(node, "GET", "/livez")[0] == 200
            # One agent says goodbye and leaves; the other call may use all of its time.
            await polite.gone()
            await silent.gone()
        code = await asyncio.to_thread(node.process.wait, DRAIN + 60)
        assert code == 0
    finally:
        for call in calls:
            with contextlib.suppress(httpx.HTTPError):
                await call.hang_up()
        node.stop()  # asserts that no process is left

    with node_in(folder, **SETTINGS | {"DRAIN_SECONDS": 900}) as again:
        ids = {call.session_id: "ended" for call in calls} | dict.fromkeys(ready, "ended")
        old_life_is_over(again, ids | {each["sessionId"]: "error" for each in line})
        with connected(again) as raw:
            parted, ended = (moment(raw, call.session_id, "ended") - began for call in (polite, silent))
        print(f"goodbye was said {parted:.1f} s after the drain began, the other call ended after {ended:.1f} s")  # noqa: T201
        # One time is by Redis's clock, the other by the drain program's: they may differ slightly.
        assert parted > DRAIN - GOODBYE - 1, "a call ended before its time for a goodbye"
        assert ended > DRAIN - 1, "a call was ended before the end of the drain"
        assert any("has said goodbye" in each for each in again.logs(polite.session_id))
        assert again.session(silent.session_id)["reason"] == "the node is stopping"
        await ends_with_its_last_call(again)
