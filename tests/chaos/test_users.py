"""Users whose client dies, who leave, and who return in a second tab."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from orchestrator.call.caller import Call
from tests.support.ear import Ear
from tests.support.hurt import connected, talking
from tests.support.node import REPOSITORY, Node
from tests.support.processes import alive, poll

#: Longer than LiveKit keeps an empty room by default.
SETTINGS = {"USER_GONE_SECONDS": 24}


@contextlib.contextmanager
def tab(node: Node, user: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Start a caller in its own process, which hears its agent; yields the process and its session's id."""
    command = [sys.executable, "-m", "tests.support.tab", node.url, user]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        try:
            assert process.stdout is not None
            session_id = process.stdout.readline().strip()
            assert session_id, "the caller does not hear its agent"
            yield process, session_id
        finally:
            process.kill()


@pytest.mark.timeout(180)
def test_a_client_that_dies_frees_its_agent_within_thirty_seconds(echo: Node) -> None:
    """T22: the client leaves without a message. LiveKit must detect that, and then the user may return for a while."""
    with tab(echo, "crashed") as (process, session_id):
        pid = echo.session(session_id)["agentPid"]
        with connected(echo) as raw:
            seconds, microseconds = raw.time()
            process.kill()
            poll(lambda: not alive(pid), "the agent is gone", 90)
            took = int(raw.hget(f"session:{session_id}", "endedAt")) / 1000 - seconds - microseconds / 1e6
    after = echo.session(session_id)
    print(f"the agent was free {took:.1f} s after the client's death: {echo.logs(session_id)[-4:]}")  # noqa: T201
    assert took < 30, "the promise is 30 s"
    assert (after["status"], after["reason"]) == ("ended", "the connection of the user was lost")
    assert "user_lost" in [event["state"] for event in after["events"]]
    poll(lambda: echo.counts()["agents"] == 3, "only the pool is left", 60)


@pytest.mark.timeout(120)
async def test_a_user_may_return_within_the_configured_time(echo: Node) -> None:
    """LiveKit has its own timeout for an empty room, which is overridden when the room is created."""
    call = await talking(echo, "leaver")
    await call.leave()
    try:
        over = lambda: (found := echo.session(call.session_id))["status"] == "ended" and found  # noqa: E731
        ended = await asyncio.to_thread(poll, over, "it is over", 60)
        assert ended["reason"] == "user was gone for 24 s"
    finally:
        await call.hang_up()


@pytest.mark.timeout(120)
async def test_a_second_tab_continues_the_call(echo: Node) -> None:
    """T21: LiveKit removes the first tab, and reports its leaving after the second one has joined."""
    first = await talking(echo, "ada")
    try:
        before = await first.look()
        async with Call(echo.url, "ada", patience=60, key=first.secret) as second:
            assert second.session_id == first.session_id
            second.hum()
            await first.gone()
            await second.sound()
            async with Ear(second) as ear:
                with connected(echo) as raw:
                    waits = lambda: raw.zscore("deadlines", f"gone|{first.session_id}") is None  # noqa: E731
                    await asyncio.to_thread(poll, waits, "the user does not count as absent")
                for _ in range(50):
                    await second.next_sound()
            after = await second.look()
            assert (after["status"], after["agentPid"], after["takeovers"]) == ("active", before["agentPid"], 0)
            print(f"silent for {ear.silence:.2f} s at most in the second tab")  # noqa: T201
    finally:
        await first.hang_up()
    await asyncio.to_thread(poll, lambda: echo.counts()["agents"] == 3, "only the pool is left", 60)
