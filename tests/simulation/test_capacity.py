"""The session limit, the queue, a user's limit, dead agents in the pool, and memory, in many orders of events."""

import asyncio
from collections import Counter

import pytest

from tests.simulation import promises
from tests.simulation.cluster import Call, Cluster
from tests.simulation.conftest import Simulate
from tests.simulation.world import World

SEEDS = range(8)
#: Limit of sessions, warm agents, length of the queue.
MOST, POOL, LINE = 4, 2, 5


async def full(world: World, nodes: int = 1, **settings: int) -> tuple[Cluster, list[Call]]:
    """Return a cluster that is at its session limit, and the calls in the order of their start."""
    given = {"max_sessions": MOST, "pool_target": POOL, "queue_limit": LINE, "user_join_seconds": 600} | settings
    cluster = Cluster(world, nodes, queue_seconds=given.pop("queue_seconds", 120), **given)
    await cluster.start()
    seated = [await cluster.begin(f"seated{number}") for number in range(MOST)]
    for call in seated:
        await cluster.served(call, 20)
    await cluster.until(cluster.full, "the pool is full", 20)
    return cluster, seated


async def over(cluster: Cluster) -> None:
    """End every session, and wait until the cluster is back to normal."""
    for call in cluster.calls:
        if call.session_id:
            await cluster.end(call)
    await promises.when_quiet(cluster)


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_session_limit_holds_during_a_rush(simulate: Simulate, nodes: int) -> None:
    starts = 3 * (MOST + LINE)

    async def scenario(world: World) -> None:
        cluster = Cluster(
            world, nodes, max_sessions=MOST, pool_target=POOL, queue_limit=LINE, user_join_seconds=600,
            queue_seconds=120,
        )  # fmt: skip
        await cluster.start()
        watching = cluster.outside.start(promises.Watch(cluster).run())
        calls = await asyncio.gather(*(cluster.begin(f"rush{number}") for number in range(starts)))
        began = [call for call in calls if call.session_id and call.state != "queued"]
        for call in began:
            await cluster.served(call, 20)
        assert len({call.session_id for call in began}) == MOST
        waiting = [call for call in calls if call.state == "queued"]
        assert len(waiting) == LINE
        # The position is read after joining the queue, so two concurrent starts may both get the later position.
        assert max(call.position or 0 for call in waiting) == LINE
        refused = [call.refused.partition(":")[0] for call in calls if not call.session_id]
        assert Counter(refused) == {"AtCapacity": starts - MOST - LINE}
        await cluster.until(cluster.full, "the pool is full", 20)
        assert len(cluster.agents) == MOST + max(POOL, nodes)
        await over(cluster)
        assert not watching.done()

    simulate(scenario, SEEDS)


def test_the_queue_is_first_in_first_out_and_advances_immediately(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster, seated = await full(world)
        waiting = [await cluster.begin(f"waits{number}") for number in range(3)]
        assert [call.position for call in waiting] == [1, 2, 3]
        for number, (leaver, following) in enumerate(zip(seated, waiting, strict=False)):
            await cluster.until(cluster.full, "a warm agent", 20)
            await cluster.end(leaver)
            # With a warm agent this is a single step: the end of one session starts the next.
            ended, ready = await cluster.session(leaver), await cluster.session(following)
            assert ready.status in {"ready", "active"}
            assert ready.ready_at is not None
            assert ended.ended_at is not None
            assert ready.ready_at - ended.ended_at < 0.001
            left = [await cluster.do(cluster.store.position(call.session_id)) for call in waiting[number + 1 :]]
            assert left == list(range(1, len(left) + 1))
        await over(cluster)

    simulate(scenario, SEEDS)


def test_later_starts_never_overtake_the_queue(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster, seated = await full(world)
        first = await cluster.begin("patient")
        pushing = [cluster.outside.start(cluster.begin(f"pushes{number}")) for number in range(LINE - 2)]
        await cluster.end(seated[0])
        await cluster.served(first, 10)
        assert {call.state for call in await asyncio.gather(*pushing)} <= {"queued"}
        await over(cluster)

    simulate(scenario, SEEDS)


def test_queued_sessions_end_by_timeout_or_by_their_user(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster, seated = await full(world, queue_seconds=12)
        cancelled, hurried = await cluster.begin("changes-his-mind"), await cluster.begin("hurried")
        await cluster.end(cancelled)
        assert await cluster.do(cluster.store.position(hurried.session_id)) == 1
        began = world.now

        async def given_up() -> bool:
            return (await cluster.session(hurried)).status == "error"

        await cluster.until(given_up, "the session is given up", 15)
        assert 11 < world.now - began < 14
        assert await cluster.code(hurried) == "queue_timeout"
        behind = await cluster.begin("behind")
        await cluster.end(seated[0])
        await cluster.served(behind, 10)
        await over(cluster)

    simulate(scenario, SEEDS)


def test_one_user_never_exceeds_the_limit_per_user(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 2, sessions_per_user=2, user_join_seconds=600)
        await cluster.start()
        calls = await asyncio.gather(*(cluster.begin("greedy") for _ in range(20)))
        assert len({call.session_id for call in calls}) == 2
        await over(cluster)

    simulate(scenario, SEEDS)


def test_a_killed_warm_agent_is_never_assigned(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=3, user_join_seconds=600)
        await cluster.start()
        for number in range(6):
            await cluster.until(cluster.full, "the pool is full", 20)
            killed = cluster.agents
            for agent in killed:
                agent.kill()
            await asyncio.sleep(world.dice.uniform(0, 0.05))
            call = await cluster.begin(f"user{number}")
            session = await cluster.session(call)
            # The API checks the process before it answers, and that of each replacement: the bound agent is alive.
            assert session.status == "starting" or session.agent_id not in {agent.id for agent in killed}
            await cluster.served(call, 20)
            await cluster.end(call)
        await over(cluster)

    simulate(scenario, SEEDS)


def test_many_concurrent_starts_succeed_while_the_pool_is_resized(simulate: Simulate) -> None:
    """A smaller pool stops only warm agents: no session's agent is replaced."""

    async def scenario(world: World) -> None:
        cluster = Cluster(world, 2, pool_target=3, max_sessions=50, user_join_seconds=600)
        await cluster.start()

        async def client(name: str) -> None:
            for _ in range(4):
                call = await cluster.begin(name)
                before = await cluster.served(call, 20)
                await asyncio.sleep(world.dice.uniform(0.5, 2))
                after = await cluster.session(call)
                assert (after.agent_id, after.replacements, after.takeovers) == (before.agent_id, 0, 0)
                await cluster.end(call)

        clients = [cluster.outside.start(client(f"client{number}")) for number in range(6)]
        while not all(each.done() for each in clients):
            await cluster.do(cluster.store.set_target(world.dice.randrange(1, 6)))
            await cluster.computers[0].worker.start(cluster.computers[0].worker.node.pool.refill())
        await asyncio.gather(*clients)
        await over(cluster)

    simulate(scenario, SEEDS)


def test_no_agent_is_started_without_memory_and_the_line_moves_when_there_is_some(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=0, user_join_seconds=600, queue_seconds=120)
        await cluster.start()
        (computer,) = cluster.computers
        computer.free_bytes = 1 << 20

        async def known() -> bool:
            return cluster.world.valkey.peek([("EXISTS", "pool:memory_low")]) == [1]

        await cluster.until(known, "the shortage is recorded", 5)
        call = await cluster.begin("ada")
        assert call.state == "queued"
        await asyncio.sleep(10)
        assert not cluster.agents
        computer.free_bytes = 8 << 30
        await cluster.served(call, 10)
        await over(cluster)

    simulate(scenario, SEEDS)
