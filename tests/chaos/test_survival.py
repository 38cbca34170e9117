"""Calls continue while a program of the node, or Redis with all data, is lost; nothing is duplicated or left over."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.chaos.conftest import LONG
from tests.support.agreement import agrees
from tests.support.node import Node
from tests.support.processes import alive, poll
from tests.support.survival import (
    PROGRAMS,
    TURNS,
    answers,
    calls,
    crash_and_stay_down,
    flush,
    lose_the_file,
    outlive_the_loss_of_all_records,
    refused_for,
    runs_again,
)

log = logging.getLogger(__name__)

CAP = 20
SETTINGS = {
    "POOL_TARGET": 2, "AGENT_MODULE": "tests.support.echo_agent", "USER_JOIN_SECONDS": 600, "MAX_SESSIONS": CAP,
    "QUEUE_LIMIT": 0, "START_TIMEOUT_SECONDS": 20,
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_call_continues_when_a_program_is_killed(echo: Node, name: str) -> None:
    async with calls(echo, name) as under_way:
        killed = await asyncio.to_thread(echo.kill, name)
        began = time.monotonic()
        await asyncio.to_thread(runs_again, echo, name, killed)
        await asyncio.to_thread(poll, lambda: answers(echo), "a start would be served", 30, every=0.1)
        await asyncio.to_thread(agrees, echo, 15)
        log.info(f"{name}: all agrees {time.monotonic() - began:.1f} s after the kill, {under_way.heard()}")
        await asyncio.to_thread(under_way.assert_untouched, echo)


@pytest.mark.timeout(180)
async def test_a_hung_host_is_replaced_while_calls_continue(echo: Node) -> None:
    async with calls(echo, "hung-host", alone=2) as under_way:
        hung = echo.program("host") or 0
        os.kill(hung, signal.SIGSTOP)
        await asyncio.to_thread(runs_again, echo, "host", hung)
        assert not alive(hung)
        await asyncio.to_thread(poll, lambda: answers(echo), "a start would be served", 30, every=0.1)
        await asyncio.to_thread(agrees, echo, 15)
        await asyncio.to_thread(under_way.assert_untouched, echo)


@pytest.mark.timeout(240)
async def test_a_call_continues_when_programs_are_restarted(echo: Node) -> None:
    """Like an operator who has changed a setting: `supervisorctl restart`, one program after the other."""
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
async def test_calls_survive_repeated_kills_of_the_celery_worker(echo: Node) -> None:
    async with calls(echo, "workers", talking=4, alone=0) as under_way:
        for _ in range(10 if LONG else 4):
            killed = await asyncio.to_thread(echo.kill, "worker")
            await asyncio.to_thread(runs_again, echo, "worker", killed)
        await asyncio.to_thread(poll, lambda: answers(echo), "a start would be served", 30, every=0.1)
        await asyncio.to_thread(agrees, echo, 15)
        await asyncio.to_thread(under_way.assert_untouched, echo)


async def test_calls_survive_a_long_outage_of_redis(echo: Node) -> None:
    """T14: Valkey is killed and is down for 5 s; its append-only file restores all data."""
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
async def test_calls_survive_the_loss_of_all_records(echo: Node, loss: Callable[[Node], None]) -> None:
    """T15: living agents register again before any session gets one: the limit is kept, the pool does not double."""
    async with calls(echo, loss.__name__, TURNS) as under_way:
        await outlive_the_loss_of_all_records(echo, under_way, loss, cap=CAP, seconds=15)
