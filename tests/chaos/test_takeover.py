"""An agent that dies in a call: the user hears the next one in the same room."""

import asyncio
import os
import signal
import time

import pytest

from agents.caller import Call
from tests.support.node import Node
from tests.support.processes import alive, poll

SETTINGS = {"USER_GONE_SECONDS": 5}


async def talking(node: Node, user: str) -> Call:
    """Return a call in which the agent is heard."""
    call = Call(node.url, user)
    await call.__aenter__()
    call.hum()
    await call.sound()
    return call


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
