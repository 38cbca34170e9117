"""A reload during calls: calls keep the old code, and the pool's agents are replaced one by one."""

import asyncio

from tests.simulation import promises
from tests.simulation.cluster import Cluster
from tests.simulation.conftest import Simulate
from tests.simulation.world import World

SEEDS = range(12)


async def done(cluster: Cluster, reload_id: str) -> str:
    """Wait for the end of a reload on the first node; returns its result."""
    name = cluster.computers[0].name

    async def over() -> bool:
        return (await cluster.store.reload(reload_id))[name] not in {"waiting", "running"}

    await cluster.until(over, "the reload is over", 10)
    states: dict[str, str] = await cluster.do(cluster.store.reload(reload_id))
    return states[name]


def test_calls_go_on_with_the_old_code_and_the_pool_is_never_empty(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=3, user_join_seconds=600, max_session_seconds=600)
        await cluster.start()
        call = await cluster.begin("ada")
        before = await cluster.served(call, 10)
        cluster.livekit.join(before.room_name)
        await cluster.until(cluster.full, "the pool is full", 20)
        await asyncio.sleep(world.dice.uniform(0, 3))
        assert await done(cluster, await cluster.reload(cluster.computers[0])) == "done"

        async def renewed() -> bool:
            assert cluster.pool()[0], "the pool is empty"
            warm = [each for each in cluster.agents if each.id != before.agent_id]
            return len(warm) == 3 and all(each.version == 2 for each in warm) and await cluster.full()

        await cluster.until(renewed, "the pool has the new code", 30)
        after = await cluster.session(call)
        assert (after.status, after.agent_id, after.takeovers) == ("active", before.agent_id, 0)
        fresh = cluster.process_of(await cluster.served(await cluster.begin("bob"), 10))
        assert fresh is not None
        assert fresh.version == 2
        for each in cluster.calls:
            await cluster.end(each)
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)


def test_an_agent_that_boots_during_a_reload_is_replaced_too(simulate: Simulate) -> None:
    """An agent may be forked with the old code and its start recorded after the reload."""

    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=2)
        await cluster.start()
        await cluster.do(cluster.store.set_target(6))
        reload_id = await cluster.reload(cluster.computers[0])
        await asyncio.sleep(world.dice.uniform(0, 1))
        assert await done(cluster, reload_id) == "done"

        async def renewed() -> bool:
            return [each.version for each in cluster.agents] == [2] * 6 and await cluster.full()

        await cluster.until(renewed, "the pool has the new code", 40)
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)


def test_code_that_cannot_be_loaded_is_refused_and_changes_nothing(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=2)
        await cluster.start()
        before = [agent.id for agent in cluster.agents]
        refused = await done(cluster, await cluster.reload(cluster.computers[0], broken=True))
        assert refused == "failed: the agents' code cannot be loaded"
        await asyncio.sleep(10)
        assert [agent.id for agent in cluster.agents] == before
        assert await done(cluster, await cluster.reload(cluster.computers[0])) == "done"

        async def renewed() -> bool:
            return [agent.version for agent in cluster.agents] == [3, 3]

        await cluster.until(renewed, "the pool has the next code", 30)
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)
