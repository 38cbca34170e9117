"""Redis restarts empty: calls continue, and no start is answered before the live sessions are counted again."""

import asyncio

import pytest

from orchestrator.store import keys
from tests.simulation import promises
from tests.simulation.cluster import Cluster
from tests.simulation.conftest import Simulate
from tests.simulation.world import World

SEEDS = range(12)


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_cap_holds_though_redis_comes_back_empty(simulate: Simulate, nodes: int) -> None:
    most = 3

    async def scenario(world: World) -> None:
        cluster = Cluster(
            world, nodes, max_sessions=most, pool_target=2, queue_limit=3, user_join_seconds=600,
            max_session_seconds=600, queue_seconds=120,
        )  # fmt: skip
        await cluster.start()
        watching = cluster.outside.start(promises.Watch(cluster).run())
        calls = [await cluster.begin(f"user{number}") for number in range(most)]
        before = [await cluster.served(call, 20) for call in calls]
        for session in before:
            cluster.livekit.join(session.room_name)
        await asyncio.sleep(world.dice.uniform(1, 4))
        world.valkey.lose_everything()
        late = None
        while late is None or late.refused.startswith("NotSetUp"):
            late = await cluster.begin("late")
            await asyncio.sleep(0.05)
        assert late.state == "queued", late

        async def known() -> bool:
            found = [await cluster.store.session(call.session_id) for call in calls]
            return all(each is not None and each.status == "active" for each in found)

        await cluster.until(known, "all calls are registered again", 5)
        for call, session in zip(calls, before, strict=True):
            after = await cluster.session(call)
            assert (after.agent_id, after.takeovers) == (session.agent_id, 0)
        for call in [*calls, late]:
            await cluster.end(call)
        await promises.when_quiet(cluster)
        assert not watching.done()

    simulate(scenario, SEEDS)


def test_clean_ups_that_come_together_end_no_session(simulate: Simulate) -> None:
    """Beat sends a clean-up while the node runs its own: both find sessions that had no time to register again."""

    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, user_join_seconds=600, max_session_seconds=600)
        await cluster.start()
        call = await cluster.begin("ada")
        before = await cluster.served(call, 10)
        await asyncio.sleep(world.dice.uniform(0, 5))
        world.valkey.peek([("DEL", f"agent:{before.agent_id}"), ("SREM", keys.AGENTS, before.agent_id)])
        worker = cluster.computers[0].worker
        for _ in range(3):
            assert await worker.start(worker.node.clean_up.run()) == []
        await asyncio.sleep(6)
        after = await cluster.session(call)
        assert (after.status, after.agent_id) == (before.status, before.agent_id)
        await cluster.end(call)
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)
