"""Fixtures for all folders of tests."""

import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from hypothesis.internal.conjecture import providers

from orchestrator.settings import Settings
from orchestrator.store import Store
from tests.support.pool import POLICY
from tests.support.processes import alive, free_ports, start_valkey, stop

# Its asserts are a test's: when one fails, pytest shows the values.
pytest.register_assert_rewrite("tests.support.machine")

#: Files of these rings that take longest. One file is one process's: what begins last must be short.
_LONG = ("test_supervise.py", "test_host.py", "test_host_code.py", "test_refusing_redis.py", "test_fuzz.py")


def pytest_xdist_auto_num_workers() -> int:
    """Return how many test processes there are: one more than the cores that nothing else uses now, and at least two.

    A whole node takes ten seconds of a core to start. Where other programs use the cores, more nodes at once would miss
    the product's own deadlines.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = cores * (1 - psutil.cpu_percent(interval=1.0) / 100)
    return max(2, round(free) + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests with whole nodes first, then long files."""
    items.sort(key=lambda item: 0 if item.path.parent.name == "e2e" else 1 if item.path.name in _LONG else 2)


@pytest.fixture(autouse=True, scope="session")
def _bare_environment() -> None:
    """Remove the developer's own settings from the environment, and the signal handling that `nohup` sets."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


#: The programs that this process has started since the beginning of the current test.
_STARTED: list[str] = []


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        _STARTED.append(str(arguments[0] or arguments[1][0]))


sys.addaudithook(_on_event)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Ignore programs started between two tests: fixtures of the previous module may start some as they end."""
    _STARTED.clear()


@pytest.fixture(autouse=True)
def _no_process_but_valkey(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that starts a process without the marker `thorough`, because `make check` must stay fast."""
    yield
    # Python itself runs uname, once.
    started = [program for program in _STARTED if "valkey" not in program and program != "uname"]
    if request.path.parent.name in {"unit", "integration"} and not request.node.get_closest_marker("thorough"):
        assert not started, f"a test that starts {started} must be marked `thorough`"


@pytest.fixture(autouse=True, scope="session")
def _same_sequences() -> Iterator[None]:
    """Make derandomized Hypothesis try the same examples whatever else is loaded.

    It draws one value in twenty from constants in the source of every loaded module of the project, so the examples
    would depend on which test files were collected into the same process.
    """
    none = providers.Constants()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(providers, "_get_local_constants", lambda: none)
        yield


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder with a short path, because a Unix socket's path may have at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="vao", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Valkey for the whole test run."""
    port = free_ports()
    process = start_valkey(tmp_path_factory.mktemp("valkey"), port)
    yield f"redis://127.0.0.1:{port}/0"
    stop(process)
    assert not alive(process.pid)


@pytest.fixture
def raw(valkey_url: str) -> Iterator["redis.Redis"]:
    """A Redis client on an empty Valkey."""
    client = redis.Redis.from_url(valkey_url, decode_responses=True)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
async def store(raw: "redis.Redis", valkey_url: str) -> AsyncIterator[Store]:
    """A store on an empty Valkey, set up with a policy of long waits."""
    async with Store(valkey_url, name="test", keep_seconds=3600) as found:
        await found.configure(POLICY, 0)
        yield found
