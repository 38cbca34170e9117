"""LiveKit is down: starts are refused with the reason, we end no live calls, and joins are retried."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.call.caller import Call
from tests.chaos.conftest import LONG
from tests.support import livekit
from tests.support.ear import Ear
from tests.support.guest import LiveKit
from tests.support.hurt import clean_up_round, connected, talking
from tests.support.node import Node
from tests.support.processes import poll
from tests.support.proxy import FaultProxy

SETTINGS = {"USER_JOIN_SECONDS": 600, "USER_GONE_SECONDS": 30}
AWAY = 60 if LONG else 10


@pytest.fixture(scope="module")
def server(short_folder: Path) -> Iterator[int]:
    """A LiveKit server that the test can stop; its port."""
    folder = short_folder / "lkserver"
    folder.mkdir()
    with livekit.server(folder) as port:
        yield port


@pytest.fixture(scope="module")
def proxied(short_folder: Path, server: int) -> Iterator[tuple[Node, FaultProxy]]:
    """A node whose API, Celery worker and agents reach LiveKit through a proxy. Users, and all sound, do not use it."""
    folder = short_folder / "lkproxied"
    folder.mkdir()
    with FaultProxy("127.0.0.1", server) as proxy:
        urls = {"LIVEKIT_URL": f"ws://127.0.0.1:{proxy.port}", "LIVEKIT_PUBLIC_URL": f"ws://127.0.0.1:{server}"}
        keys = {"LIVEKIT_API_KEY": livekit.KEY, "LIVEKIT_API_SECRET": livekit.SECRET}
        settings = {"AGENT_MODULE": "agents/echo.py", "POOL_TARGET": 3}
        with Node(folder, **settings | SETTINGS | urls | keys) as node:
            yield node, proxy
            proxy.pass_through()


def start(node: Node, user: str) -> httpx.Response:
    """Request a session and return any answer."""
    return node.http.post("/api/session/start", json={"userId": user})


async def refused(node: Node) -> float:
    """Wait until starts are refused because LiveKit is down; returns the seconds that this took."""
    began = time.monotonic()

    def look() -> bool:
        answer = start(node, f"refused{time.monotonic_ns()}")
        if answer.is_success:
            node.end(answer.json()["sessionId"])
            return False
        assert (answer.status_code, answer.json()["code"]) == (503, "livekit_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        health = node.health()
        assert health["livekit"]["ok"] is False
        assert health["status"] == "degraded"
        return True

    await asyncio.to_thread(poll, look, "starts are refused", every=0.5)
    return time.monotonic() - began


async def served(node: Node) -> float:
    """Wait until starts are served again; returns the seconds that this took."""
    began = time.monotonic()
    found = await asyncio.to_thread(
        poll, lambda: (answer := start(node, "again")).is_success and answer.json(), "starts are served again", 60
    )
    took = time.monotonic() - began
    await asyncio.to_thread(node.end, found["sessionId"])
    return took


async def heard_again(call: Call, seconds: float) -> float:
    """Wait until the agent of a call is heard again; returns the seconds that this took."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if call.last_sound > began:
            return time.monotonic() - began
        await asyncio.sleep(0.05)
    there = {each.identity: list(each.track_publications) for each in call._room.remote_participants.values()}
    raise AssertionError(f"silent for {seconds} s: {await call.look()}; in its room: {there}")


@pytest.mark.timeout(240)
async def test_calls_continue_while_signalling_is_black_holed(proxied: tuple[Node, FaultProxy]) -> None:
    node, proxy = proxied
    call = await talking(node, "heard-throughout")
    try:
        before = await call.look()
        async with Ear(call) as ear:
            proxy.black_hole()
            away = time.monotonic()
            late = await refused(node)
            await asyncio.sleep(max(0.0, away + AWAY - time.monotonic()))  # the length of the outage
            during = ear.silence
            proxy.pass_through()
            back = await served(node)
            await asyncio.to_thread(clean_up_round, node)  # the clean-up ends sessions that seem lost
        after = await call.look()
        print(  # noqa: T201
            f"black hole of {AWAY} s: starts refused after {late:.1f} s, served {back:.1f} s after its end; "
            f"silence during it {during:.2f} s, at most {ear.silence:.2f} s"
        )
        assert (after["status"], after["agentPid"], after["takeovers"]) == ("active", before["agentPid"], 0), after
        await heard_again(call, 30)
    finally:
        proxy.pass_through()
        await call.hang_up()
    await asyncio.to_thread(poll, lambda: node.counts()["agents"] == 3, "only the pool is left", 60)
    node.clean()


@pytest.mark.timeout(180)
async def test_an_agent_retries_until_it_can_join(proxied: tuple[Node, FaultProxy]) -> None:
    node, proxy = proxied
    await asyncio.to_thread(poll, lambda: node.counts()["pool"] == 3, "the pool is full", 60)
    try:
        for _ in range(5):
            proxy.reset()
            answer = start(node, "early-bird")
            if answer.is_success:
                break
            # LiveKit was checked a moment ago.
            proxy.pass_through()
            await served(node)
        started = answer.json()
        assert started["status"] == "ready", "the outage of LiveKit is not detected yet"
        session_id = started["sessionId"]
        with connected(node) as raw:
            join_by = lambda: raw.zscore("deadlines", f"join|{session_id}") or 0.0  # noqa: E731
            first = join_by()
            await refused(node)
            # Its time to join has expired and begins again, because another agent could not join either.
            await asyncio.to_thread(poll, lambda: join_by() > first, "it has more time to join")
        waiting = node.session(session_id)
        assert (waiting["status"], waiting["replacements"]) == ("ready", 0), waiting
        proxy.pass_through()
        back = time.monotonic()
        joined: dict[str, Any] = await asyncio.to_thread(
            poll, lambda: "agentJoined" in (found := node.session(session_id))["timings"] and found, "it joins", 60
        )
        print(f"in the room {time.monotonic() - back:.1f} s after LiveKit was back")  # noqa: T201
        assert joined["agentId"] == waiting["agentId"]
        assert any("not in the room yet" in line for line in node.logs(session_id))
        node.end(session_id)
    finally:
        proxy.pass_through()
    await served(node)
    await asyncio.to_thread(poll, lambda: node.counts()["agents"] == 3, "only the pool is left", 60)
    node.clean()


@pytest.mark.timeout(240)
async def test_a_frozen_livekit_ends_no_call(echo: Node) -> None:
    call = await talking(echo, "frozen")
    pid = echo.program("livekit")
    assert pid
    try:
        before = await call.look()
        os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            late = await refused(echo)
            await asyncio.sleep(max(0.0, stopped + 10 - time.monotonic()))  # the length of the outage
        finally:
            os.kill(pid, signal.SIGCONT)
        heard = await heard_again(call, 60)
        back = await served(echo)
        after = await call.look()
        print(  # noqa: T201
            f"LiveKit stood still for 10 s: starts refused after {late:.1f} s; heard {heard:.1f} s after it went on, "
            f"starts served after {back:.1f} s more; takeovers {after['takeovers']}"
        )
        assert (after["status"], after["agentPid"], after["takeovers"]) == ("active", before["agentPid"], 0), after
    finally:
        await call.hang_up()
    await asyncio.to_thread(poll, lambda: echo.counts()["agents"] == 3, "only the pool is left", 60)


@pytest.mark.timeout(240)
async def test_a_killed_livekit_loses_no_call_and_leaves_no_session_open(echo: Node) -> None:
    await asyncio.to_thread(poll, lambda: echo.counts()["pool"] == 3, "the pool is full", 60)
    call = await talking(echo, "restarted")
    alone = echo.begin("nobody-comes")["sessionId"]
    try:
        before = await call.look()
        pid = echo.kill("livekit")
        killed = time.monotonic()
        await asyncio.to_thread(poll, lambda: (echo.program("livekit") or pid) != pid, "supervisord starts it anew", 30)
        async with LiveKit.of(echo) as livekit:
            # Wait, because sound of the old server may still be in transit: later sound comes from the new server.
            await livekit.served_again(before["roomName"])
        await heard_again(call, 60)
        print(f"LiveKit was killed: heard {time.monotonic() - killed:.1f} s later")  # noqa: T201
        served_again = time.monotonic()
        await served(echo)
        print(f"starts were served {time.monotonic() - served_again:.1f} s after that")  # noqa: T201
        after = await call.look()
        same = "the same agent" if after["agentPid"] == before["agentPid"] else "another agent"
        print(f"{same}, {after['takeovers']} takeovers, {after['status']}")  # noqa: T201
        assert after["status"] == "active"
        # In a silent call the same or another agent is in the room again: nothing hangs.
        found = await asyncio.to_thread(
            poll,
            lambda: (each := echo.session(alone))["status"] != "starting" and each,
            "it is settled",
        )
        print(f"the session without a user is {found['status']}: {found.get('reason', '')}")  # noqa: T201
        if found["status"] == "ready":
            async with LiveKit.of(echo) as livekit:
                await livekit.served_again(found["roomName"])
            echo.end(alone)
    finally:
        await call.hang_up()
    await asyncio.to_thread(poll, lambda: echo.counts()["agents"] == 3, "only the pool is left", 60)
