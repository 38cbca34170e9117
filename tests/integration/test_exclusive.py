"""P1: one agent is never assigned to two users. 1,000 starts from 8 processes on 1,000 agents."""

import asyncio
import multiprocessing
from collections import Counter
from typing import Any

import pytest
import redis

from orchestrator.models import new_id
from orchestrator.store import Store
from orchestrator.store.connection import connect
from orchestrator.store.loader import Scripts, named, sources
from tests.support.pool import POLICY, assign, fill

PROCESSES, STARTS, CONNECTIONS = 8, 1000, 32


#: Replacements that make the assignment non-atomic: it takes an agent that an earlier call has read from the pool.
_LOOK_THEN_TAKE = (
    ("local id = redis.call('SPOP', 'pool:ready')", "local id = ARGUMENTS.seen"),
    (
        "if agent then return agent, fields end\n  end\nend",
        "if agent then return agent, fields end\n  return nil end end",
    ),
    # Without the checks for illegal moves, which would detect the double assignment.
    ("if not legal then", "if false then"),
    ("if before then illegal_move", "if false then illegal_move"),
    ("if fields[1] == 'ready' and", "if"),
    ("if agent and redis.call('ZSCORE', 'sessions', id) then", "if false then"),
)


def look_then_take(source: str) -> str:
    """Return the assignment script without its atomicity."""
    for line, instead in _LOOK_THEN_TAKE:
        assert source.count(line) == 1, line
        source = source.replace(line, instead)
    return source


async def _starts(url: str, first: int, count: int, mutant: bool, gate: Any) -> list[str]:
    async with Store(url, name=f"p{first}", keep_seconds=60) as store:
        if mutant:
            redis_client: Any = connect(url, name=f"m{first}")
            store._scripts = Scripts(redis_client)
            script = redis_client.register_script(look_then_take(sources()["assign"]))

            async def start(user: str) -> str:
                seen = await redis_client.srandmember("pool:ready")
                arguments = named(
                    userId=user, waitingId=new_id("session"), roomName=new_id("room"), payload="{}", seen=seen
                )
                return str((await script(args=arguments))[1])
        else:

            async def start(user: str) -> str:
                result = await assign(store, user)
                assert result.outcome == "assigned"
                return result.session_id

        await store.ping()
        await asyncio.to_thread(gate.wait, 60)

        # At the same time, over as many connections as the server's listen queue takes from all processes together.
        connections = asyncio.Semaphore(CONNECTIONS)

        async def take_turns(user: str) -> str:
            async with connections:
                return await start(user)

        return list(await asyncio.gather(*(take_turns(f"u{first + n}") for n in range(count))))


def _process(url: str, first: int, count: int, mutant: bool, gate: Any, results: Any) -> None:  # noqa: PLR0917
    try:
        results.put(asyncio.run(_starts(url, first, count, mutant, gate)))
    except BaseException as failure:
        results.put([repr(failure)])
        raise


def taken(url: str, *, mutant: bool) -> Counter[str]:
    """Return how often each agent was assigned."""
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(PROCESSES), context.Queue()
    share = STARTS // PROCESSES
    processes = [
        context.Process(target=_process, args=(url, n * share, share, mutant, gate, results)) for n in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    handed = [agent_id for _ in processes for agent_id in results.get(timeout=100)]
    for process in processes:
        process.join(20)
        assert process.exitcode == 0
    return Counter(handed)


@pytest.mark.thorough
@pytest.mark.parametrize("mutant", [False, True], ids=["atomic", "look-then-take"])
def test_a_thousand_starts_take_a_thousand_agents(raw: redis.Redis, valkey_url: str, mutant: bool) -> None:
    raw.hset("policy", mapping=POLICY | {"heartbeat_timeout_seconds": 600})
    raw.set("pool:target", 0)
    ids = fill(raw, STARTS)
    handed = taken(valkey_url, mutant=mutant)
    assert handed.total() == STARTS
    distinct = set(handed) == set(ids) and max(handed.values()) == 1
    if mutant:
        assert not distinct, "the test is useless: it does not detect agents that are assigned twice"
        return
    assert distinct
    assert raw.scard("pool:ready") == 0
    assert {raw.hget(f"agent:{agent_id}", "state") for agent_id in ids} == {"assigned"}
