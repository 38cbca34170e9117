"""Two whole nodes for the run: one that speaks, one that echoes and is quick to give up on absent users."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.node import livekit_server
from tests.support.node import Node


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker("e2e")


@pytest.fixture(scope="session", autouse=True)
def _livekit_server() -> None:
    """Have a LiveKit server before any clock runs: building one takes minutes, once."""
    livekit_server.obtain()


@pytest.fixture(scope="session")
def voice_node(short_folder: Path) -> Iterator[Node]:
    """A node with the voice agent and everything else by default."""
    folder = short_folder / "voice"
    folder.mkdir()
    with Node(folder, POOL_TARGET=2) as node:
        yield node


@pytest.fixture(scope="session")
def echo_node(short_folder: Path) -> Iterator[Node]:
    """A node with the echo agent: light, so that many agents fit."""
    folder = short_folder / "echo"
    folder.mkdir()
    settings = {"POOL_TARGET": 2, "AGENT_MODULE": "agents.echo", "USER_GONE_SECONDS": 2, "HEARTBEAT_SECONDS": 1}
    with Node(folder, **settings) as node:
        yield node
