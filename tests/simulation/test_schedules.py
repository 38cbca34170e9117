"""Users start and end calls during random failures: the promises are kept in every order that is tried."""

import asyncio
import os
import subprocess
import sys

import pytest

from orchestrator.store import keys
from tests.simulation.cluster import Cluster
from tests.simulation.conftest import Simulate
from tests.simulation.promises import Broken, Watch
from tests.simulation.schedule import schedule
from tests.simulation.world import World
from tests.support.node import REPOSITORY

#: Schedules per test, and number of tests; `make chaos` runs more.
BATCH, BATCHES = 20, int(os.environ.get("SIMULATION_BATCHES", "10"))


@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_promises_hold_in_every_schedule(simulate: Simulate, batch: int) -> None:
    if simulate.only is not None and batch:
        pytest.skip("only one schedule was requested")
    for world in simulate(schedule, range(batch * BATCH, (batch + 1) * BATCH)):
        if simulate.only is not None:
            print("\n".join(world.trace))  # noqa: T201


def test_a_seed_is_the_same_schedule_again(simulate: Simulate) -> None:
    """A seed gives the same trace in this process and in one with another hash seed of Python."""
    if simulate.only is not None:
        pytest.skip("only one schedule was requested")
    first, second = ([world.trace for world in simulate(schedule, range(3))] for _ in range(2))
    assert first == second
    assert first[0] != first[1]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", f"{__file__}::{_named('0')}"],
        env=os.environ | {"SIMULATION_SEED": "2", "PYTHONHASHSEED": "7"},
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "\n".join(first[2]) in done.stdout, done.stdout[-2000:] + done.stderr


def _named(batch: str) -> str:
    return f"{test_the_promises_hold_in_every_schedule.__name__}[{batch}]"


def test_a_promise_that_is_broken_for_a_moment_is_seen(simulate: Simulate) -> None:
    """The watch's reads are sent with the next command, and still return the state at the time of the request."""

    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, max_sessions=2)
        await cluster.start()
        watch = Watch(cluster)
        watching = cluster.outside.start(watch.run())
        await asyncio.sleep(1)
        most = cluster.settings.max_sessions
        world.valkey.peek([("SADD", keys.SESSION_ACTIVE, *map(str, range(most + 1)))])
        watch._look()
        world.valkey.peek([("DEL", keys.SESSION_ACTIVE)])
        with pytest.raises(Broken, match="3 sessions are served at once, MAX_SESSIONS is 2"):
            watch.check()
        watching.cancel()

    simulate(scenario, range(3))
