"""The repair of records that do not match the processes, and the size of the pool."""

import os
import subprocess
import sys

import pytest
import redis

from orchestrator.errors import SpawnFailed
from orchestrator.machine.process import ProcessId
from orchestrator.models import Agent, new_id
from orchestrator.pool import refill
from orchestrator.reasons import because
from orchestrator.settings import Settings
from orchestrator.states import AgentState
from orchestrator.store import Reading, Store
from orchestrator.worker.examine import examine
from orchestrator.worker.pool_sizing import PoolSizing
from tests.support.pool import assign, warm
from tests.support.processes import poll


async def test_a_refill_boots_missing_agents_and_stops_surplus_ones(store: Store, valkey_url: str) -> None:
    booted: list[str] = []
    stopped: list[str] = []

    async def boot(agent_id: str) -> None:
        booted.append(agent_id)
        if len(booted) == 2:
            raise SpawnFailed("no luck")

    async def stop(agent_id: str) -> None:
        stopped.append(agent_id)

    await store.set_target(3)
    assert await refill.refill(store, "n1", boot, stop) == 2
    assert (len(booted), stopped) == (3, [])
    await warm(store, valkey_url, 2)
    await store.set_target(1)
    assert await refill.refill(store, "n1", boot, stop) == 0
    assert len(stopped) == 1


async def test_a_failed_boot_does_not_spread(store: Store) -> None:
    async def boot(agent_id: str) -> None:
        raise KeyError(agent_id)

    async def stop(agent_id: str) -> None: ...

    await store.set_target(1)
    with pytest.raises(KeyError):
        await refill.refill(store, "n1", boot, stop)


async def test_an_agent_with_heartbeats_survives_the_loss_of_its_nodes_record(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    """Redis has lost the nodes, or a node's Celery worker is restarting: its agents keep running."""
    (agent_id,) = await warm(store, valkey_url, 1, node="away")
    session_id = (await assign(store, "ada")).session_id
    assert await store.nodes() == {}
    assert await refill.end_stale(store, set()) == ([], set())
    assert raw.hget(f"agent:{agent_id}", "state") == "assigned"
    # A silent agent is given up at its own deadline. Nothing stops its process, as its node is gone.
    raw.zadd("deadlines", {f"beat|{agent_id}": 1})
    assert [(action.what, action.id, action.node) for action in await store.process_deadlines()] == [
        ("stop", agent_id, "away")
    ]
    found = await store.session(session_id)
    assert found is not None
    assert (found.status, found.replacements) == ("starting", 1)


async def test_a_session_without_an_agent_record_fails_at_the_second_check(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    (agent_id,) = await warm(store, valkey_url, 1)
    await assign(store, "ada")
    raw.delete(f"agent:{agent_id}")
    assert await refill.end_stale(store, set()) == ([], {agent_id}), "it may still register"
    assert await refill.end_stale(store, {agent_id}) == ([agent_id], set())


async def test_a_session_without_a_record_is_no_longer_counted(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    (agent_id,) = await warm(store, valkey_url, 1)
    await assign(store, "ada")
    assert not await store.end_lost_session(agent_id, because("record_lost")), "it may have been registered again since"
    assert await store.live_session_ids() == {agent_id}
    raw.delete(f"session:{agent_id}")
    await refill.end_stale(store, {agent_id})
    assert await store.live_session_ids() == set()
    assert (await assign(store, "ada")).outcome == "starting", "its user can start again"


@pytest.mark.parametrize(
    ("arrivals", "boot", "room", "target", "why"),
    [
        (0.0, 0.1, None, 2, "POOL_MIN=2 keeps 2"),
        (1.0, 4.0, None, 9, "1.00 starts/s times 4.00 s to boot, with a margin, need 9"),
        (10.0, 4.0, None, 12, "POOL_MAX=12 allows 12"),
        (1.0, 4.0, 5, 5, "memory allows 5"),
        (1.0, 4.0, 0, 0, "memory allows 0"),
    ],
)
def test_the_pool_is_sized_by_arrivals(arrivals: float, boot: float, room: int | None, target: int, why: str) -> None:
    found, told = refill.target_size(arrivals, boot, pool_min=2, pool_max=12, memory_for=room)
    assert found == target
    assert why in told


def _agent(pid: int, **changes: object) -> Agent:
    identity = ProcessId.of(pid)
    assert identity is not None
    fields: dict[str, object] = {
        "id": new_id("prewarm"), "state": AgentState.READY, "node": "n", "created_at": 0.0, "pid": pid,
        "start_ticks": identity.start_ticks, "last_beat": 100.0,
    }  # fmt: skip
    return Agent(**fields | changes)  # type: ignore[arg-type]


@pytest.mark.thorough
def test_examine_detects_each_fault() -> None:
    limit = 1 << 40
    # Its last heartbeat is years old. Only its deadline counts, which does not include outages of Redis.
    fit = examine(_agent(os.getpid()), memory_limit=limit)
    assert fit.fault is None
    assert fit.memory > 1 << 20
    large = examine(_agent(os.getpid()), memory_limit=1 << 20).fault
    assert large is not None
    assert (large.code, large.params["limitMib"]) == ("memory_limit", 1)
    stranger = _agent(os.getpid(), start_ticks=1)
    fault = examine(stranger, memory_limit=limit).fault
    assert fault is not None
    assert fault.text == "pid belongs to another process"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        agent = _agent(process.pid)
        process.kill()
        poll(lambda: ProcessId.of(process.pid) is None, "the process is a zombie")
        fault = examine(agent, memory_limit=limit).fault
        assert fault is not None
        assert fault.text == "process gone or zombie"


async def test_the_size_is_chosen_from_one_reading(
    store: Store, raw: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refilled: list[str] = []
    readings: list[None] = []
    read = store.reading
    settings = Settings(redis_url=valkey_url, pool_min=2, pool_max=12)
    sizing = PoolSizing(settings, store, lambda: refilled.append(raw.get("pool:target")))

    async def counted() -> Reading:
        readings.append(None)
        return await read()

    monkeypatch.setattr(store, "reading", counted)
    await sizing.size()
    assert readings == [], "no boot was measured yet"
    raw.hset("pool:stats", "boot_ms_mean", 40)
    raw.set("pool:target", 7)
    await sizing.size()
    assert (len(readings), refilled, raw.get("pool:target")) == (1, ["2"], "2")
    await sizing.size()
    assert (len(readings), refilled) == (2, ["2"]), "the target has not changed"
