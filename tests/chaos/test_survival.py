"""Calls go on while a program of the node, or Redis with all it knew, is lost; then nothing is doubled or left."""

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
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import redis

from agents.caller import Call
from tests.chaos.conftest import LONG
from tests.support.agreement import agrees, os_agents
from tests.support.chaos import busy
from tests.support.ear import Ear
from tests.support.node import Node
from tests.support.processes import alive, poll
from tests.support.sampler import Sampler

log = logging.getLogger(__name__)

CAP = 20
SETTINGS = {
    "POOL_TARGET": 2, "AGENT_MODULE": "tests.support.echo_agent", "USER_JOIN_SECONDS": 600, "MAX_SESSIONS": CAP,
    "QUEUE_LIMIT": 0, "START_TIMEOUT_SECONDS": 20,
}  # fmt: skip
PROGRAMS = ("api", "worker", "beat", "host", "valkey")
#: Agents in rooms whose user has not come. LiveKit closes such a room after a minute.
ALONE = 15
#: The audio goes past everything that is hurt here: a longer silence would be a call that notices. In seconds, on a
#: machine that does not have more to do than it can.
SILENCE = 1.0


@dataclass
class Calls:
    """What is under way on a node."""

    talks: list[Call]
    ears: list[Ear]
    alone: list[str]  #: sessions
    before: dict[str, dict[str, Any]] = field(default_factory=dict)  #: all sessions as they were

    def heard(self) -> str:
        """Say how long the silences were."""
        return f"silences {[round(ear.silence, 2) for ear in self.ears]} s"

    def assert_untouched(self, node: Node) -> None:
        """The same agents as before, in the same processes, were heard all the time."""
        for session_id, before in self.before.items():
            assert alive(before["agentPid"]), f"{before['agentPid']} has died: {node.session(session_id)}"
            after = node.session(session_id)
            same = ("status", "agentId", "agentPid", "roomName", "userId", "takeovers", "replacements")
            assert {name: after.get(name) for name in same} == {name: before[name] for name in same}, after
        quiet = [ear.silence for ear in self.ears]
        much = busy()
        assert max(quiet) < SILENCE * much, f"silences of {quiet} s on a machine {much:.1f} times as busy as it can be"


@contextlib.asynccontextmanager
async def calls(
    node: Node, name: str, turns: tuple[str, ...] = (), *, talking: int = 2, alone: int = ALONE
) -> AsyncIterator[Calls]:
    """Users who hear their agent all the time, and agents that wait for their user."""
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


def end_all(node: Node) -> None:
    """Stop every session, so that what has failed here fails nothing after it."""
    answer = poll(lambda: (a := node.http.get("/api/sessions", headers=node.admin)).is_success and a, "the sessions")
    for session in answer.json()["sessions"]:
        if session["status"] not in {"ended", "error"}:
            node.end(session["sessionId"])


def answers(node: Node) -> bool:
    """Return whether the api serves and knows of a worker with its host."""
    with contextlib.suppress(httpx.TransportError):
        return node.http.get("/readyz").is_success
    return False


def runs_again(node: Node, name: str, killed: int) -> None:
    """Wait until supervisord has started a program anew and keeps it."""

    def again() -> bool:
        info = node.info(name)
        return info["statename"] == "RUNNING" and info["pid"] != killed

    poll(again, f"{name} is started again", every=0.1)


def crash_and_stay_down(node: Node, name: str) -> None:
    """Have a program crash, and not be started again."""
    pid = node.program(name)
    assert pid
    os.kill(pid, signal.SIGSTOP)  # it hears nothing of the polite request to stop
    stopping = threading.Thread(target=node.supervisorctl, args=("stop", name))
    stopping.start()
    poll(lambda: node.info(name)["statename"] == "STOPPING", f"supervisord stops {name}")
    os.kill(pid, signal.SIGKILL)
    stopping.join(20)
    assert node.info(name)["statename"] == "STOPPED"


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_call_does_not_notice_that_a_program_is_killed(echo: Node, name: str) -> None:
    async with calls(echo, name) as under_way:
        killed = await asyncio.to_thread(echo.kill, name)
        began = time.monotonic()
        await asyncio.to_thread(runs_again, echo, name, killed)
        await asyncio.to_thread(poll, lambda: answers(echo), "a start would be served", 30, every=0.1)
        await asyncio.to_thread(agrees, echo, 15)
        log.info(f"{name}: all agrees {time.monotonic() - began:.1f} s after the kill, {under_way.heard()}")
        await asyncio.to_thread(under_way.assert_untouched, echo)


@pytest.mark.timeout(180)
async def test_a_host_that_hangs_is_replaced_and_no_call_notices(echo: Node) -> None:
    async with calls(echo, "hung-host", alone=2) as under_way:
        hung = echo.program("host") or 0
        os.kill(hung, signal.SIGSTOP)
        await asyncio.to_thread(runs_again, echo, "host", hung)
        assert not alive(hung)
        await asyncio.to_thread(poll, lambda: answers(echo), "a start would be served", 30, every=0.1)
        await asyncio.to_thread(agrees, echo, 15)
        await asyncio.to_thread(under_way.assert_untouched, echo)


@pytest.mark.timeout(240)
async def test_a_call_does_not_notice_that_programs_are_restarted(echo: Node) -> None:
    """As somebody does it who has changed a setting: `supervisorctl restart`, one program after the other."""
    async with calls(echo, "restarts") as under_way:
        for name in PROGRAMS:
            before = echo.program(name) or 0
            began = time.monotonic()
            await asyncio.to_thread(echo.supervisorctl, "restart", name)
            await asyncio.to_thread(runs_again, echo, name, before)
            await asyncio.to_thread(poll, lambda: answers(echo), "a start would be served", 30, every=0.1)
            await asyncio.to_thread(agrees, echo, 15)
            log.info(f"{name}: all agrees {time.monotonic() - began:.1f} s after the request, {under_way.heard()}")
        await asyncio.to_thread(under_way.assert_untouched, echo)


@pytest.mark.timeout(240)
async def test_calls_outlive_many_celery_workers(echo: Node) -> None:
    async with calls(echo, "workers", talking=4, alone=0) as under_way:
        for _ in range(10 if LONG else 4):
            killed = await asyncio.to_thread(echo.kill, "worker")
            await asyncio.to_thread(runs_again, echo, "worker", killed)
        await asyncio.to_thread(poll, lambda: answers(echo), "a start would be served", 30, every=0.1)
        await asyncio.to_thread(agrees, echo, 15)
        await asyncio.to_thread(under_way.assert_untouched, echo)


async def test_calls_outlive_a_crash_of_redis_that_lasts(echo: Node) -> None:
    """T14: Valkey is killed and stays away for 5 s; its append-only file brings everything back."""
    async with calls(echo, "outage") as under_way:
        session_id = under_way.alone[0]
        await asyncio.to_thread(crash_and_stay_down, echo, "valkey")
        waits = await asyncio.to_thread(refused_for, echo, session_id, 5)
        await asyncio.to_thread(echo.supervisorctl, "start", "valkey")
        back = time.monotonic()
        await asyncio.to_thread(poll, lambda: answers(echo), "a start would be served", 15, every=0.1)
        await asyncio.to_thread(agrees, echo, 15)
        log.info(f"refused within {max(waits):.2f} s, {time.monotonic() - back:.1f} s to agree, {under_way.heard()}")
        await asyncio.to_thread(under_way.assert_untouched, echo)


def refused_for(node: Node, session_id: str, seconds: float) -> list[float]:
    """Ask the node what needs Redis, for a while: each answer is a problem, and at once. Returns their times."""
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
            assert waits[-1] < 2, f"{method} {path} was answered after {waits[-1]:.2f} s"
            time.sleep(0.05)
    return waits


def flush(node: Node) -> None:
    """Empty Redis while it runs."""
    with redis.Redis.from_url(node.redis_url) as raw:
        raw.flushall()


def lose_the_file(node: Node) -> None:
    """Have Redis crash and come back without its file."""
    crash_and_stay_down(node, "valkey")
    shutil.rmtree(node.run_dir / "valkey")
    (node.run_dir / "valkey").mkdir()
    node.supervisorctl("start", "valkey")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("loss", [flush, lose_the_file])
async def test_calls_outlive_the_loss_of_all_records(echo: Node, loss: Callable[[Node], None]) -> None:
    """T15: who lives says so again before anybody is given an agent: the cap holds, the pool does not double."""
    turns = ("I am Ada.", "Ask me about the engine.")
    async with calls(echo, loss.__name__, turns) as under_way:
        spoken = under_way.talks[0].session_id
        with redis.Redis.from_url(echo.redis_url, decode_responses=True) as raw:
            kept = raw.lrange(f"session:{spoken}:conversation", 0, -1)
            assert [json.loads(turn)["text"] for turn in kept] == list(turns)
            warm = await asyncio.to_thread(os_agents, echo)
            ticks = echo.log("beat").count("Sending due task")
            with (
                Sampler(lambda: serving(echo), 0.25) as processes,
                Sampler(lambda: live(raw), 0.05, ignore=(redis.RedisError,)) as recorded,
            ):
                await asyncio.to_thread(loss, echo)
                began = time.monotonic()
                refusals = await asyncio.to_thread(starts_until_full, echo, loss.__name__)
                log.info(f"{refusals}, full {time.monotonic() - began:.1f} s after the loss")
                await asyncio.to_thread(agrees, echo, 15)
                log.info(f"agrees {time.monotonic() - began:.1f} s after the loss, {under_way.heard()}")
            assert max(recorded.values) == CAP
            assert max(processes.values) <= CAP + 2 + 2, "more agents than sessions, the pool, and those on their way"
            assert set(warm) <= set(await asyncio.to_thread(os_agents, echo)), "an agent that lived is gone"
            await asyncio.to_thread(under_way.assert_untouched, echo)
            assert raw.lrange(f"session:{spoken}:conversation", 0, -1) == kept
        ticked = lambda: echo.log("beat").count("Sending due task") > ticks  # noqa: E731
        await asyncio.to_thread(poll, ticked, "beat ticks again", 60, every=0.5)
        log.info(f"beat ticks again {time.monotonic() - began:.1f} s after the loss")


def live(raw: "redis.Redis") -> int:
    """Return how many sessions there are by the records."""
    return len(raw.sunion("session:starting", "session:ready", "session:active"))


def serving(node: Node) -> int:
    """Return how many agents the machine has."""
    return len(os_agents(node))


def starts_until_full(node: Node, user: str) -> Counter[str]:
    """Start sessions for new users until the node says that it is full; returns what the answers were."""
    seen: Counter[str] = Counter()
    deadline = time.monotonic() + 30
    number = 0
    while seen["at_capacity"] < 3:
        assert time.monotonic() < deadline, f"the cap does not hold, or nobody is served: {seen}"
        number += 1
        answer = node.http.post("/api/session/start", json={"userId": f"{user}-late{number}"})
        seen["accepted" if answer.is_success else answer.json()["code"]] += 1
        assert answer.is_success or answer.status_code in {429, 503}, answer.text
        time.sleep(0.05)
    return seen
