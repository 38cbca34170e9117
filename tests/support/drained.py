"""Helpers for the tests of draining."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx

from tests.support.node import Node
from tests.support.processes import poll

SETTINGS: dict[str, Any] = {
    "AGENT_MODULE": "tests.support.agents", "POOL_TARGET": 2, "USER_JOIN_SECONDS": 600, "JOIN_TIMEOUT_SECONDS": 60,
}  # fmt: skip


def node_in(folder: Path, **settings: Any) -> Node:
    """Return a node in a folder that an earlier node may have used."""
    folder.mkdir(exist_ok=True)
    return Node(folder, NODE_ID=f"drains-{folder.name}", **SETTINGS | settings)


def alone(node: Node, count: int) -> list[str]:
    """Start sessions whose users never join; returns their ids once each has its agent."""
    ids = [node.begin(f"alone{number}")["sessionId"] for number in range(count)]
    for session_id in ids:
        poll(lambda session_id=session_id: node.session(session_id)["status"] == "ready", "it has an agent", 60)
    return ids


async def within(seconds: float, look: Any, what: str) -> float:
    """Wait in a thread until `look` is true, while a call goes on; returns the seconds that it took."""
    began = time.monotonic()
    await asyncio.to_thread(poll, look, what, seconds)
    return time.monotonic() - began


def answer(node: Node, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any], httpx.Headers]:
    """Return the API's answer, with status 0 when the API does not respond."""
    try:
        found = node.http.request(method, path, **options)
    except httpx.HTTPError:
        return 0, {}, httpx.Headers()
    return found.status_code, found.json(), found.headers


def old_life_is_over(node: Node, ids: dict[str, str]) -> None:
    """Assert that a restarted node has nothing left of its previous run but records."""
    counts = node.counts()
    assert (counts["pool"], counts["agents"]) == (2, 2), counts
    assert not any(counts[state] for state in ("queued", "starting", "ready", "active")), counts
    for session_id, status in ids.items():
        found = node.session(session_id)
        assert found["status"] == status, found
        assert found["reason"]
    assert not [warning for warning in node.health()["warnings"] if "drain" in warning]
    node.clean()
