"""Whole nodes in normal use: each test runs many steps on one node, or on a few nodes that belong together."""

import pytest

from orchestrator.node import livekit_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker("e2e")


@pytest.fixture(scope="session", autouse=True)
def _livekit_server() -> None:
    """Provide a LiveKit server before any timeout begins: building one takes minutes, once."""
    livekit_server.obtain()
