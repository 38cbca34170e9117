"""P4: the duration of the silence when the agent of a call is killed or hangs."""

import asyncio
import contextlib
import os
import signal
import time
from statistics import median

from benchmarks.support import Aim, Figure, note, short_folder
from orchestrator.call.caller import Call
from tests.support.node import Node
from tests.support.processes import poll

KILLS = 7
HANGS = 3
#: Seconds for which audio that was in flight when the agent died can still be heard.
ON_ITS_WAY = 0.2
KILLED, HUNG = Aim("value", 2), Aim("value", 10)


def measure() -> list[Figure]:
    """Measure takeovers, alternating with a user who must call again: start, join, first sound."""
    with short_folder() as folder, contextlib.ExitStack() as stack:
        (folder / "node").mkdir()
        note("P4: starts a node")
        node = stack.enter_context(Node(folder / "node", POOL_TARGET=3, AGENT_MODULE="agents/echo.py"))
        return asyncio.run(_compare(node))


async def _compare(node: Node) -> list[Figure]:
    killed, hung, again = [], [], []
    for number in range(KILLS):
        silence, first = await _lose(node, f"killed-{number}", signal.SIGKILL)
        killed.append(silence)
        again.append(first)
        if number < HANGS:
            hung.append((await _lose(node, f"hung-{number}", signal.SIGSTOP))[0])
        note(f"P4: round {number + 1} of {KILLS}")
    name = "the first sound of a new call"
    return [
        Figure("silence after a kill, median", median(killed), "s", median(again), name, KILLED),
        Figure("silence after a kill, worst", max(killed), "s", max(again), name, KILLED),
        Figure("silence after a hang, worst", max(hung), "s", max(again), name, HUNG),
    ]


async def _lose(node: Node, user: str, number: signal.Signals) -> tuple[float, float]:
    """Return the seconds of silence after an agent got a signal, and the seconds until its call's first sound."""
    await asyncio.to_thread(poll, lambda: node.counts()["pool"] >= 3, "the pool is full")
    call = Call(node.url, user)
    try:
        await call.__aenter__()
        call.hum()
        first = await call.sound()
        session = await call.look()
        os.kill(session["agentPid"], number)
        lost = last = time.monotonic()
        while (heard := await call.next_sound()) - lost < ON_ITS_WAY or heard - last < ON_ITS_WAY:
            last = heard
        assert (await call.look())["takeovers"] == 1
        return heard - last, first
    finally:
        await call.hang_up()
