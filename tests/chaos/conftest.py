"""Whole nodes with injected failures; after each test records, processes and rooms must agree."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.node import livekit_server
from tests.support.node import Node

#: Run the long forms of the tests, with the numbers of the specification.
LONG = bool(os.environ.get("CHAOS_LONG"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/chaos/" in str(item.path):
            item.add_marker("chaos")


@pytest.fixture(scope="session", autouse=True)
def _livekit_server() -> None:
    """Provide a LiveKit server before any timeout begins: building one takes minutes, once."""
    livekit_server.obtain()


@pytest.fixture(scope="session")
def fault_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which every node records the fault points that it passes; markers of used faults are beside it."""
    return tmp_path_factory.mktemp("faults") / "log"


@pytest.fixture(scope="module")
def echo(short_folder: Path, request: pytest.FixtureRequest, fault_log: Path) -> Iterator[Node]:
    """A node with the echo agent for a module of tests, with the module's SETTINGS."""
    name = request.module.__name__.rpartition("test_")[2][:12]
    folder = short_folder / name
    folder.mkdir()
    settings = {"POOL_TARGET": 3, "AGENT_MODULE": "agents/echo.py", "FAULT_LOG": fault_log}
    with Node(folder, **settings | getattr(request.module, "SETTINGS", {})) as node:
        yield node


@pytest.fixture
def voice(short_folder: Path, fault_log: Path) -> Iterator[Node]:
    """A node with the voice agent, for one test."""
    folder = short_folder / "chaosvoice"
    folder.mkdir()
    with Node(folder, POOL_TARGET=2, FAULT_LOG=fault_log) as node:
        yield node


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check the invariants after each test with the module's node; other nodes are checked when they stop."""
    yield
    if "echo" in request.fixturenames:
        request.getfixturevalue("echo").clean()
