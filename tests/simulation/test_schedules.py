"""Users come and go while whatever may fails does: the promises hold, in every order that is tried."""

import os
import subprocess
import sys

import pytest

from tests.simulation.conftest import Simulate
from tests.simulation.schedule import schedule
from tests.support.node import REPOSITORY

#: Schedules of one test, and tests; `make chaos` runs more.
BATCH, BATCHES = 20, int(os.environ.get("SIMULATION_BATCHES", "10"))


@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_promises_hold_in_every_schedule(simulate: Simulate, batch: int) -> None:
    if simulate.only is not None and batch:
        pytest.skip("one schedule was asked for")
    for world in simulate(schedule, range(batch * BATCH, (batch + 1) * BATCH)):
        if simulate.only is not None:
            print("\n".join(world.trace))  # noqa: T201


def test_a_seed_is_the_same_schedule_again(simulate: Simulate) -> None:
    """In this process, and in another one in which Python hashes otherwise."""
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
