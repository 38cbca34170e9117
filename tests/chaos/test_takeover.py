"""An agent that dies in a call: the user hears the next one in the same room."""

import asyncio
import os
import signal
import time

import pytest

from agents.caller import Call
from tests.support import hurt
from tests.support.node import Node
from tests.support.processes import alive, poll

SETTINGS = {"USER_GONE_SECONDS": 5, "AGENT_MODULE": "tests.support.agents"}


async def talking(node: Node, user: str) -> Call:
    """Return a call in which the agent is heard."""
    call = Call(node.url, user, metadata={"echo": True})
    await call.__aenter__()
    call.hum()
    await call.sound()
    return call


def settled(node: Node, session_id: str, takeovers: int) -> None:
    """Wait until a session has been taken over so often, or is over."""

    def look() -> bool:
        found = node.session(session_id)
        return (found["takeovers"] == takeovers and found["status"] == "active") or found["status"] == "error"

    poll(look, f"takeover {takeovers}")


async def test_a_killed_agent_is_heard_again_within_two_seconds(echo: Node) -> None:
    call = await talking(echo, "killed")
    try:
        before = await call.look()
        os.kill(before["agentPid"], signal.SIGKILL)
        killed = time.monotonic()
        while (heard := await call.next_sound()) - killed < 0.3:
            pass  # what was on its way when it died
        after = await call.look()
        assert after["agentPid"] != before["agentPid"]
        assert after["takeovers"] == 1
        assert heard - killed < 2, f"{heard - killed:.2f} s of silence"
    finally:
        await call.hang_up()


async def test_a_hung_agent_is_heard_again_within_ten_seconds(echo: Node) -> None:
    call = await talking(echo, "hung")
    try:
        before = await call.look()
        os.kill(before["agentPid"], signal.SIGSTOP)
        hung = time.monotonic()
        while (heard := await call.next_sound()) - hung < 0.5:
            pass
        after = await call.look()
        assert (after["takeovers"], after["status"]) == (1, "active")
        assert "no heartbeat for" in (await asyncio.to_thread(echo.session, call.session_id))["cause"]
        assert heard - hung < 10, f"{heard - hung:.2f} s of silence"
        await asyncio.to_thread(poll, lambda: not alive(before["agentPid"]), "the hung one is killed")
    finally:
        await call.hang_up()


@pytest.mark.parametrize("later", ["block", "lose_redis"])
async def test_an_agent_that_lives_and_serves_no_more_is_heard_again_within_ten_seconds(echo: Node, later: str) -> None:
    """Its event loop is blocked; or it has lost Redis for good while everybody else has it."""
    call = await hurt.talking(echo, later, later=later, echo=True)
    try:
        before = await call.look()
        logs = {"block": "blocks", "lose_redis": "has lost Redis"}[later]
        await asyncio.to_thread(poll, lambda: logs in echo.logs(call.session_id), "it serves no more", 20)
        began = time.monotonic()
        while ((after := await call.look())["takeovers"], after["status"]) != (1, "active"):
            assert time.monotonic() - began < 10, "nobody has taken over"
            await asyncio.sleep(0.05)
        # One that only has no Redis is heard until it is put out.
        await asyncio.to_thread(poll, lambda: not alive(before["agentPid"]), "the other one is gone")
        assert await call.next_sound() - began < 12
        assert "no heartbeat for" in (await asyncio.to_thread(echo.session, call.session_id))["cause"]
    finally:
        await call.hang_up()


async def test_the_third_death_ends_the_call_with_the_last_cause(echo: Node) -> None:
    call = await talking(echo, "unlucky")
    try:
        for takeovers in (1, 2, 3):
            before = await call.look()
            os.kill(before["agentPid"], signal.SIGSEGV if takeovers == 3 else signal.SIGKILL)
            await asyncio.to_thread(settled, echo, call.session_id, takeovers)
        await call.gone()
        after = await asyncio.to_thread(echo.session, call.session_id)
        assert (after["status"], after["takeovers"]) == ("error", 2)
        assert after["reason"] == "agent_lost: killed by signal 11"
        assert [agent["signal"] for agent in after["agents"]] == [9, 9, 11]
        assert all(agent["peakMemory"] > 1 << 20 for agent in after["agents"])
        states = [event["state"] for event in after["events"]]
        assert states.count("takeover") == 2
        assert "firstAudio" in after["timings"]
        assert after["lastLogLines"][-1] == "[agent killed by signal 11]"
    finally:
        await call.hang_up()


@pytest.mark.timeout(180)
async def test_the_next_voice_knows_the_users_name_and_what_was_said(voice: Node) -> None:
    async with Call(voice.url, "x-1") as call:
        await call.heard()
        await call.say("My name is Grace.")
        await call.heard()
        before = await call.look()
        os.kill(before["agentPid"], signal.SIGKILL)
        apology = (await call.heard()).text().lower()
        assert "cut off" in apology
        await call.say("What is my name?")
        answer = (await call.heard()).text().lower()
        assert "grace" in answer
        after = await call.look()
    assert (after["takeovers"], after["roomName"]) == (1, before["roomName"])
