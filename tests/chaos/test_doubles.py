"""Retries, redeliveries and losses: no session is lost or has two agents, and the pool never has too many."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from orchestrator.call.caller import Call
from tests.chaos.conftest import LONG
from tests.support.agreement import agrees, os_agents, unsettled
from tests.support.ear import Ear
from tests.support.guest import LiveKit
from tests.support.hurt import clean_up_round
from tests.support.node import REPOSITORY, Node
from tests.support.processes import alive, poll, stop
from tests.support.redis_clock import redis_time
from tests.support.sampler import Sampler
from tests.support.traffic import Traffic

log = logging.getLogger(__name__)

TARGET = 3
SETTINGS = {"POOL_TARGET": TARGET, "USER_JOIN_SECONDS": 600, "SPAWN_CONCURRENCY": 4}
KILLS, STARTS = (20, 200) if LONG else (6, 60)


@pytest.mark.timeout(400)
def test_no_start_is_lost_while_the_api_is_killed_repeatedly(echo: Node) -> None:
    """T5: every accepted session gets an agent, and no agent is left without a session."""
    with Traffic(echo.url, rate=4, length=3) as traffic:
        for _ in range(KILLS):
            poll(lambda: echo.info("api")["statename"] == "RUNNING", "the API runs", 60, every=0.1)
            before = len(traffic.accepted)
            # During a start, not between two starts.
            poll(lambda before=before: len(traffic.accepted) > before, "a start is accepted", 60)  # type: ignore[misc]
            echo.kill("api")
        poll(lambda: len(traffic.accepted) >= STARTS, f"{STARTS} starts are accepted", 200, every=0.1)
    poll(echo.ready, "the API answers", 30)
    poll(lambda: not unsettled(echo, traffic.accepted), "every accepted session has an agent or is over", 30, every=1)
    log.info(f"{KILLS} kills, {len(traffic.accepted)} accepted, {traffic.warm} at once, {dict(traffic.refused)}")
    errors = [one for one in traffic.accepted if echo.session(one)["status"] == "error"]
    assert not errors, [echo.session(one)["reason"] for one in errors]
    log.info(f"agrees after {agrees(echo, 30):.1f} s")


def live(node: Node) -> list[str]:
    """Return the live sessions."""
    found = node.http.get("/api/sessions", headers=node.admin).json()["sessions"]
    return [each["sessionId"] for each in found if each["status"] not in {"ended", "error"}]


def delete_session(node: Node, session: dict[str, Any], *, agent: bool) -> None:
    """Delete all keys of a session and of its agent from Redis."""
    session_id, user = session["sessionId"], session["userId"]
    with redis.Redis.from_url(node.redis_url, decode_responses=True) as raw, raw.pipeline() as pipe:
        names = list(raw.scan_iter(f"session:{session_id}*", count=1000))
        if agent:
            names += raw.scan_iter(f"agent:{session['agentId']}*", count=1000)
            pipe.srem("agents", session["agentId"])
        pipe.delete(*names, f"session:user:{user}", f"user:sessions:{user}")
        for state in ("starting", "ready", "active"):
            pipe.srem(f"session:{state}", session_id)
        pipe.zrem("sessions", session_id)
        pipe.execute()


def agents_in(node: Node, room: str) -> list[str]:
    """Return the agents in a room, from LiveKit."""

    async def ask() -> list[str]:
        async with LiveKit.of(node) as livekit:
            return [agent.sid for agent in await livekit.agents(room)]

    return asyncio.run(ask())


@pytest.mark.parametrize("agent", [False, True], ids=["session", "session and agent"])
async def test_an_agent_registers_again_after_redis_lost_its_session(echo: Node, agent: bool) -> None:
    """T8: the call continues with the same agent, and there is never a second one in the room."""
    async with Call(echo.url, f"forgotten-{agent}") as call:
        call.hum()
        await call.sound()
        await call.next_sound()
        before = await call.look()
        # A start whose answer was lost with an API process keeps its agent until the limit for its user to join.
        most = TARGET + len(live(echo))
        begun = time.monotonic()
        look = lambda: (len(agents_in(echo, before["roomName"])), len(os_agents(echo)))  # noqa: E731
        async with Ear(call) as ear:
            with Sampler(look, 0.5) as sampler:
                await asyncio.to_thread(delete_session, echo, before, agent=agent)
                known = lambda: echo.session(call.session_id).get("status") == "active"  # noqa: E731
                await asyncio.to_thread(poll, known, "the session is known again", 60, every=0.1)
                took = time.monotonic() - begun
                # The clean-up ends a session without an agent when it finds it the second time.
                for _ in range(2):
                    await asyncio.to_thread(clean_up_round, echo)
        log.info(f"known again after {took:.1f} s, silence {ear.silence:.2f} s, {len(sampler.values)} looks")
        assert {inside for inside, _ in sampler.values} == {1}
        assert max(processes for _, processes in sampler.values) <= most
        after = await call.look()
        same = ("status", "agentId", "agentPid", "roomName", "userId", "takeovers")
        assert {name: after[name] for name in same} == {name: before[name] for name in same}
    await asyncio.to_thread(poll, lambda: not alive(before["agentPid"]), "it leaves at the end", 30)
    await asyncio.to_thread(agrees, echo, 30)


@contextlib.contextmanager
def second_beat(node: Node) -> Iterator[subprocess.Popen[bytes]]:
    """Run a second beat with the environment of the node's beat; its log is `beat2.log`."""
    environment = node.environment | {"REDIS_URL": node.redis_url}
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "orchestrator.worker.tasks", "beat", "--pidfile="]
    with (node.run_dir / "logs" / "beat2.log").open("wb") as output:
        process = subprocess.Popen(
            [*command, "--loglevel=INFO"], env=environment, cwd=REPOSITORY, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        stop(process)


def pooled(raw: "redis.Redis") -> int:
    """Return how many agents are warm or boot for the pool (not for a session), read in one transaction."""
    with raw.pipeline(transaction=True) as pipe:
        pipe.scard("pool:ready").scard("pool:starting").zcard("session:unbound")
        ready, starting, waiting = pipe.execute()
    return int(ready) + int(starting) - int(waiting)


def ticks(node: Node) -> int:
    """Return how many refill tasks the beats have sent."""
    said = node.log("beat") + node.log("beat2")
    return said.count("Sending due task refill") + said.count("a refill is asked for")


@pytest.mark.timeout(900 if LONG else 240)
def test_only_one_of_two_beats_sends_tasks_and_a_killed_one_is_replaced(echo: Node) -> None:
    """T18: the pool never exceeds its target, no task is sent twice, and ticks resume within 30 s of a death."""
    agrees(echo)
    period = 30
    with second_beat(echo), redis.Redis.from_url(echo.redis_url, decode_responses=True) as raw:
        before, begun = ticks(echo), redis_time(raw)
        with (
            Sampler(lambda: pooled(raw), 0.02) as pool,
            Traffic(echo.url, rate=1, length=2, user="beats") as traffic,
        ):
            os.kill(echo.program("beat") or 0, signal.SIGKILL)
            killed, seen = time.monotonic(), ticks(echo)
            poll(lambda: ticks(echo) > seen, "the ticks resume", period, every=0.2)
            resumed = time.monotonic() - killed
            if LONG:
                poll(lambda: ticks(echo) >= seen + 20, "ten minutes of ticks", 660, every=1)
        passed = redis_time(raw) - begun
        asked = ticks(echo) - before
    poll(lambda: not unsettled(echo, traffic.accepted), "every accepted session has an agent or is over", 30, every=1)
    log.info(f"resumed after {resumed:.1f} s; {asked} ticks in {passed:.0f} s; {len(traffic.accepted)} starts")
    # A beat sends one task when it takes over, and a task due at the moment of the death may be sent by both.
    assert asked <= passed / period + 3
    assert max(pool.values) <= TARGET
    agrees(echo, 30)
