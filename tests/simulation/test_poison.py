"""Agents that cannot boot: the session gets the reason, few processes start, and after the repair the pool fills."""

import asyncio

from tests.simulation import promises
from tests.simulation.cluster import Cluster
from tests.simulation.conftest import Simulate
from tests.simulation.world import World

SEEDS = range(8)
BREAKER, LONGEST_PAUSE = 5, 60.0


def most_boots(counted: int, seconds: float) -> float:
    """Return how many boots the pauses allow in `seconds` after the breaker opened, plus those counted before."""
    pauses, at, failed = 0, 0.0, BREAKER
    while at < seconds:
        at += 0.75 * min(LONGEST_PAUSE, 2.0 ** (failed - 1))  # the shortest pause with jitter
        failed += 1
        pauses += 1
    return counted + pauses


def test_agents_that_die_at_their_start(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=2)
        for computer in cluster.computers:
            computer.poisoned = True
        await cluster.start(full=False)
        early = await cluster.begin("early")

        async def over() -> bool:
            return (await cluster.session(early)).status == "error"

        if early.session_id:
            took = await cluster.until(over, "the session has failed", 15)
            assert await cluster.code(early) == "boot_error", took

        async def opened() -> bool:
            return (await cluster.store.breaker()).state != "closed"

        await cluster.until(opened, "the breaker opens", 60)
        assert (await cluster.do(cluster.store.breaker())).failures >= BREAKER
        at_opening, began = cluster.boots, world.now
        assert at_opening <= BREAKER + 4, "only a few boots are tried at once before the first success"
        late = await cluster.begin("late")
        assert late.refused.startswith("BootsFail")
        await asyncio.sleep(300)
        assert cluster.boots <= most_boots(at_opening, world.now - began)
        for computer in cluster.computers:
            computer.poisoned = False
        await cluster.until(cluster.full, "the pool fills automatically", 1.25 * LONGEST_PAUSE + 10)
        assert (await cluster.do(cluster.store.breaker())).state == "closed"
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)


def test_a_boot_that_is_too_slow_is_an_error_in_time_and_no_process_is_left(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=0)
        await cluster.start()
        cluster.computers[0].boot_seconds = (3600.0, 3600.0)
        call = await cluster.begin("waits")
        began = world.now

        async def over() -> bool:
            return (await cluster.session(call)).status == "error"

        await cluster.until(over, "the session has failed", 15)
        limit = cluster.settings.start_timeout_seconds
        assert world.now - began <= limit + 1.5
        assert await cluster.code(call) == "boot_timeout"

        async def gone() -> bool:
            return not cluster.agents

        await cluster.until(gone, "its processes are gone", 10)

    simulate(scenario, SEEDS)
