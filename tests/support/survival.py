"""Calls in progress on a node, and failures during them: of programs, of Redis, and of all data in Redis."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import httpx
import redis

from orchestrator.call.caller import Call
from tests.support.agreement import agrees, os_agents
from tests.support.ear import Ear
from tests.support.node import Node
from tests.support.processes import alive, poll
from tests.support.sampler import Sampler

log = logging.getLogger(__name__)

#: Turns of conversation in calls whose records are lost.
TURNS = ("I am Ada.", "Ask me about the engine.")
PROGRAMS = ("api", "worker", "beat", "host", "relay", "valkey")
#: Agents in rooms whose user has not joined. LiveKit closes such a room after a minute.
ALONE = 15


@dataclass
class Calls:
    """The calls of a node, and its sessions that wait for their user."""

    talks: list[Call]
    ears: list[Ear]
    alone: list[str]  #: sessions
    before: dict[str, dict[str, Any]] = field(default_factory=dict)  #: all sessions before the failure

    def heard(self) -> str:
        """Return a text with the longest silence of each call."""
        return f"silences {[round(ear.silence, 2) for ear in self.ears]} s"

    def assert_untouched(self, node: Node) -> None:
        """Assert that every session still has the same agent in the same process."""
        for session_id, before in self.before.items():
            assert alive(before["agentPid"]), f"{before['agentPid']} has died: {node.session(session_id)}"
            after = node.session(session_id)
            same = ("status", "agentId", "agentPid", "roomName", "userId", "takeovers", "replacements")
            assert {name: after.get(name) for name in same} == {name: before[name] for name in same}, after


@contextlib.asynccontextmanager
async def calls(
    node: Node, name: str, turns: tuple[str, ...] = (), *, talking: int = 2, alone: int = ALONE
) -> AsyncIterator[Calls]:
    """Start calls that listen to their agent all the time, and sessions that wait for their user."""
    async with contextlib.AsyncExitStack() as stack:
        talks = []
        for number in range(talking):
            call = Call(node.url, f"{name}-{number}", metadata={"turns": turns})
            talks.append(await stack.enter_async_context(call))
            call.hum()
        for call in talks:
            await call.sound()
            await call.next_sound()
        waiting = [(await asyncio.to_thread(node.begin, f"{name}-alone{n}"))["sessionId"] for n in range(alone)]
        every = [*(call.session_id for call in talks), *waiting]

        def joined() -> bool:
            return all("agentJoined" in node.session(session_id).get("timings", ()) for session_id in every)

        await asyncio.to_thread(poll, joined, "every agent is in its room", every=0.3)
        await asyncio.to_thread(agrees, node)
        ears = [await stack.enter_async_context(Ear(call)) for call in talks]
        found = Calls(talks, ears, waiting)
        for session_id in every:
            found.before[session_id] = await asyncio.to_thread(node.session, session_id)
        assert [found.before[call.session_id]["status"] for call in talks] == ["active"] * talking
        try:
            yield found
        finally:
            await asyncio.to_thread(end_all, node)
    await asyncio.to_thread(agrees, node)


def end_all(node: Node, but: Collection[str] = ()) -> None:
    """Stop every session, so that a failure in one test does not fail the next."""
    answer = poll(lambda: (a := node.http.get("/api/sessions", headers=node.admin)).is_success and a, "the sessions")
    for session in answer.json()["sessions"]:
        if session["status"] not in {"ended", "error"} and session["sessionId"] not in but:
            node.end(session["sessionId"])


def answers(node: Node) -> bool:
    """Return whether the API is ready: a worker with an agent host has reported."""
    with contextlib.suppress(httpx.TransportError):
        return node.http.get("/readyz").is_success
    return False


def runs_again(node: Node, name: str, killed: int) -> None:
    """Wait until supervisord has restarted a program and counts it as running."""

    def again() -> bool:
        info = node.info(name)
        return info["statename"] == "RUNNING" and info["pid"] != killed

    poll(again, f"{name} is restarted", every=0.1)


def crash_and_stay_down(node: Node, name: str) -> None:
    """Make a program crash without a restart by supervisord."""
    pid = node.program(name)
    assert pid
    os.kill(pid, signal.SIGSTOP)  # so that it cannot act on supervisord's SIGTERM
    stopping = threading.Thread(target=node.supervisorctl, args=("stop", name))
    stopping.start()
    poll(lambda: node.info(name)["statename"] == "STOPPING", f"supervisord stops {name}")
    os.kill(pid, signal.SIGKILL)
    stopping.join(20)
    assert node.info(name)["statename"] == "STOPPED"


def refused_for(node: Node, session_id: str, seconds: float) -> list[float]:
    """Repeat requests that need Redis: each is answered with a problem document. Returns the response times."""
    waits = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for method, path, body in (
            ("GET", f"/api/session/{session_id}", None),
            ("GET", "/readyz", None),
            ("GET", "/api/health", None),
            ("POST", "/api/session/start", {"userId": "impatient"}),
        ):
            asked = time.monotonic()
            answer = node.http.request(method, path, json=body)
            waits.append(time.monotonic() - asked)
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["success"] is False
            time.sleep(0.05)
    return waits


def flush(node: Node) -> None:
    """Empty Redis while it runs."""
    with redis.Redis.from_url(node.redis_url) as raw:
        raw.flushall()


def lose_the_file(node: Node) -> None:
    """Make Redis crash and restart without its data file."""
    crash_and_stay_down(node, "valkey")
    shutil.rmtree(node.run_dir / "valkey")
    (node.run_dir / "valkey").mkdir()
    node.supervisorctl("start", "valkey")


async def outlive_the_loss_of_all_records(
    node: Node, under_way: Calls, loss: Callable[[Node], None], *, cap: int, seconds: float = 60
) -> None:
    """Make Redis lose all data. Living agents register again before any session gets an agent: the limit is kept, the
    pool does not double, and the first call's conversation is kept."""
    spoken = f"session:{under_way.talks[0].session_id}:conversation"
    with redis.Redis.from_url(node.redis_url, decode_responses=True) as raw:
        kept = raw.lrange(spoken, 0, -1)
        assert [json.loads(turn)["text"] for turn in kept] == list(TURNS)
        warm = await asyncio.to_thread(os_agents, node)
        ticks = node.log("beat").count("Sending due task")
        with (
            Sampler(lambda: serving(node), 0.25) as processes,
            Sampler(lambda: live(raw), 0.05, ignore=(redis.RedisError,)) as recorded,
        ):
            await asyncio.to_thread(loss, node)
            began = time.monotonic()
            refusals = await asyncio.to_thread(starts_until_full, node, loss.__name__)
            log.info(f"{refusals}, full {time.monotonic() - began:.1f} s after the loss")
            await asyncio.to_thread(agrees, node, seconds)
            log.info(f"agrees {time.monotonic() - began:.1f} s after the loss, {under_way.heard()}")
        assert max(recorded.values) == cap
        assert max(processes.values) <= cap + 2 + 2, "more agents than sessions, warm agents and boots together"
        assert set(warm) <= set(await asyncio.to_thread(os_agents, node)), "an agent that was alive is gone"
        await asyncio.to_thread(under_way.assert_untouched, node)
        assert raw.lrange(spoken, 0, -1) == kept
    ticked = lambda: node.log("beat").count("Sending due task") > ticks  # noqa: E731
    await asyncio.to_thread(poll, ticked, "beat ticks again", every=0.5)
    log.info(f"beat ticks again {time.monotonic() - began:.1f} s after the loss")


def live(raw: "redis.Redis") -> int:
    """Return how many live sessions the records list."""
    return len(raw.sunion("session:starting", "session:ready", "session:active"))


def serving(node: Node) -> int:
    """Return how many agent processes the machine has."""
    return len(os_agents(node))


def starts_until_full(node: Node, user: str) -> Counter[str]:
    """Start sessions for new users until the node answers `at_capacity`; returns the number of each answer."""
    seen: Counter[str] = Counter()
    deadline = time.monotonic() + 30
    number = 0
    while seen["at_capacity"] < 3:
        assert time.monotonic() < deadline, f"the limit is not enforced, or no start is answered: {seen}"
        number += 1
        answer = node.http.post("/api/session/start", json={"userId": f"{user}-late{number}"})
        seen["accepted" if answer.is_success else answer.json()["code"]] += 1
        assert answer.is_success or answer.status_code in {429, 503}, answer.text
        time.sleep(0.05)
    return seen
