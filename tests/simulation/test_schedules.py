"""Users come and go while whatever may fails does: the promises hold, in every order that is tried."""

import os
import subprocess
import sys

import pytest

from tests.simulation.conftest import Simulate, one_seed
from tests.simulation.run import run
from tests.simulation.schedule import schedule
from tests.simulation.valkey import Valkey
from tests.simulation.world import World
from tests.support.node import REPOSITORY

#: Schedules of one test, and tests; `make chaos` runs more.
BATCH, BATCHES = 20, int(os.environ.get("SIMULATION_BATCHES", "10"))


@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_promises_hold_in_every_schedule(simulate: Simulate, request: pytest.FixtureRequest, batch: int) -> None:
    seed = one_seed(request.config)
    if seed is not None:
        if batch == 0:
            print("\n".join(simulate(seed, schedule).trace))  # noqa: T201
        return
    for each in range(batch * BATCH, (batch + 1) * BATCH):
        simulate(each, schedule)


def test_a_seed_is_the_same_schedule_again(simulate: Simulate, valkey: Valkey) -> None:
    """In this process, and in another one in which Python hashes otherwise."""
    first = [simulate(seed, schedule).trace for seed in range(3)]
    assert [run(World(seed), valkey, schedule).trace for seed in range(3)] == first
    assert first[0] != first[1]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", f"{__file__}::{_named('0')}"],
        env=os.environ | {"SIMULATION_SEED": "2", "PYTHONHASHSEED": "7"},
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "\n".join(first[2]) in done.stdout, done.stdout[-2000:] + done.stderr


def _named(batch: str) -> str:
    return f"{test_the_promises_hold_in_every_schedule.__name__}[{batch}]"
