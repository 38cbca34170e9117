"""Calls go on while a program of the node, or Redis with all it knew, is lost; then nothing is doubled or left."""

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Callable

import pytest
import redis

from tests.chaos.conftest import LONG
from tests.support.agreement import agrees, os_agents
from tests.support.node import Node
from tests.support.processes import alive, poll
from tests.support.sampler import Sampler
from tests.support.survival import (
    PROGRAMS,
    answers,
    calls,
    crash_and_stay_down,
    flush,
    live,
    lose_the_file,
    refused_for,
    runs_again,
    serving,
    starts_until_full,
)

log = logging.getLogger(__name__)

CAP = 20
SETTINGS = {
    "POOL_TARGET": 2, "AGENT_MODULE": "tests.support.echo_agent", "USER_JOIN_SECONDS": 600, "MAX_SESSIONS": CAP,
    "QUEUE_LIMIT": 0, "START_TIMEOUT_SECONDS": 20,
}  # fmt: skip


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
