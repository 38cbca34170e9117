"""Calls survive the loss of a program, of Redis with all data, or of LiveKit; nothing is duplicated or left over."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from orchestrator.call.caller import Call
from tests.support.agreement import agrees
from tests.support.guest import LiveKit
from tests.support.hurt import connected, in_call
from tests.support.node import Node
from tests.support.processes import alive, poll
from tests.support.survival import (
    PROGRAMS,
    TURNS,
    Calls,
    answers,
    calls,
    crash_and_stay_down,
    end_all,
    flush,
    lose_the_file,
    outlive_the_loss_of_all_records,
    refused_for,
    runs_again,
)
from tests.support.walk import walk

CAP = 5


@pytest.fixture(scope="module")
def node(short_folder: Path) -> Iterator[Node]:
    folder = short_folder / "survival"
    folder.mkdir()
    settings = {
        "POOL_TARGET": 2, "AGENT_MODULE": "tests.support.echo_agent", "USER_JOIN_SECONDS": 600, "MAX_SESSIONS": CAP,
        "QUEUE_LIMIT": 0,
    }  # fmt: skip
    with Node(folder, **settings) as found:
        yield found


async def serves_as_before(node: Node, under_way: Calls) -> None:
    """Wait until starts would be served and Redis and the machine agree; assert that the calls were not affected."""
    await asyncio.to_thread(poll, lambda: answers(node), "a start would be served", 60, every=0.1)
    await asyncio.to_thread(agrees, node, 60)
    await asyncio.to_thread(under_way.assert_untouched, node)
    for call in under_way.talks:
        await call.next_sound()


async def a_call_continues_when_a_program_is_killed(node: Node, under_way: Calls, *, program: str) -> None:
    killed = await asyncio.to_thread(node.kill, program)
    await asyncio.to_thread(runs_again, node, program, killed)
    await serves_as_before(node, under_way)


async def a_hung_program_is_replaced_while_calls_continue(node: Node, under_way: Calls, *, program: str) -> None:
    hung = node.program(program) or 0
    os.kill(hung, signal.SIGSTOP)
    await asyncio.to_thread(runs_again, node, program, hung)
    assert not alive(hung)
    await serves_as_before(node, under_way)


async def what_happens_without_a_relay_is_reported_to_the_next(node: Node, under_way: Calls) -> None:
    """The relay is away while a call goes on: what is said is kept, and so is how a call ends. Nobody hears it."""
    async with Call(node.url, "relayed") as call:
        call.hum()
        await call.next_sound()
        session_id = call.session_id
        with connected(node) as raw:
            for said, seen in (
                ("I am Grace.", lambda: "I am Grace." in str(raw.lrange(f"session:{session_id}:conversation", 0, -1))),
                ("leave", lambda: raw.hget(f"session:{session_id}", "reason")),
            ):
                await asyncio.to_thread(crash_and_stay_down, node, "relay")
                await call._room.local_participant.publish_data(said)
                if said != "leave":
                    await call.next_sound()
                assert not seen()
                await asyncio.to_thread(node.supervisorctl, "start", "relay")
                await asyncio.to_thread(poll, seen, "the agent's report is in Redis")
    session = await asyncio.to_thread(node.session, session_id)
    assert (session["status"], session["reason"]) == ("ended", "told to leave")
    assert not session["takeovers"]
    await serves_as_before(node, under_way)


async def calls_survive_a_long_outage_of_redis(node: Node, under_way: Calls) -> None:
    """Valkey is killed and is down for 3 s; its append-only file restores all data."""
    await asyncio.to_thread(crash_and_stay_down, node, "valkey")
    waits = await asyncio.to_thread(refused_for, node, under_way.talks[0].session_id, 3)
    print(f"without Redis each request was refused within {max(waits):.2f} s")  # noqa: T201
    await asyncio.to_thread(node.supervisorctl, "start", "valkey")
    await serves_as_before(node, under_way)


async def calls_survive_the_loss_of_all_records(node: Node, under_way: Calls, *, loss: Callable[[Node], None]) -> None:
    """Living agents register again before any session gets one: the limit is kept, the pool does not double."""
    await outlive_the_loss_of_all_records(node, under_way, loss, cap=CAP)
    # The next step needs the capacity that the late sessions use.
    await asyncio.to_thread(end_all, node, {call.session_id for call in under_way.talks})
    await serves_as_before(node, under_way)


async def a_killed_livekit_loses_no_call(node: Node, under_way: Calls) -> None:
    """Return whether the same or another agent is in the room again."""
    killed = await asyncio.to_thread(node.kill, "livekit")
    await asyncio.to_thread(runs_again, node, "livekit", killed)
    async with LiveKit.of(node) as livekit:
        for call in under_way.talks:
            # Wait, because sound of the old server may still be in transit: later sound comes from the new server.
            await livekit.served_again((await call.look())["roomName"])
            await call.next_sound()
            assert (await in_call(call))["status"] == "active"
    await asyncio.to_thread(poll, lambda: answers(node), "a start would be served", 60, every=0.1)


STEPS = [
    *(partial(a_call_continues_when_a_program_is_killed, program=name) for name in PROGRAMS),
    *(partial(a_hung_program_is_replaced_while_calls_continue, program=name) for name in ("host", "relay")),
    what_happens_without_a_relay_is_reported_to_the_next,
    calls_survive_a_long_outage_of_redis,
    partial(calls_survive_the_loss_of_all_records, loss=flush),
    partial(calls_survive_the_loss_of_all_records, loss=lose_the_file),
    a_killed_livekit_loses_no_call,
]


@pytest.mark.timeout(500)
async def test_calls_survive_the_loss_of_programs_redis_and_livekit(node: Node, subtests: pytest.Subtests) -> None:
    async with calls(node, "survives", TURNS, alone=0) as under_way:
        await walk(subtests, STEPS, node, under_way)
        print(under_way.heard())  # noqa: T201
