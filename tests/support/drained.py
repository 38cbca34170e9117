"""What tests of a drain ask of a node."""

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
    """Return a node that finds what an earlier one has left in the folder."""
    folder.mkdir(exist_ok=True)
    return Node(folder, NODE_ID=f"drains-{folder.name}", **SETTINGS | settings)


def alone(node: Node, count: int) -> list[str]:
    """Start sessions whose users never come; returns their ids once each has its agent."""
    ids = [node.begin(f"alone{number}")["sessionId"] for number in range(count)]
    for session_id in ids:
        poll(lambda session_id=session_id: node.session(session_id)["status"] == "ready", "it has its agent", 60)
    return ids


async def within(seconds: float, look: Any, what: str) -> float:
    """Wait for something beside a call; returns after how long it was so."""
    began = time.monotonic()
    await asyncio.to_thread(poll, look, what, seconds)
    return time.monotonic() - began


def answer(node: Node, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any], httpx.Headers]:
    """Return what the api answers; 0 when it is gone."""
    try:
        found = node.http.request(method, path, **options)
    except httpx.HTTPError:
        return 0, {}, httpx.Headers()
    return found.status_code, found.json(), found.headers


def old_life_is_over(node: Node, ids: dict[str, str]) -> None:
    """Assert that a node which was started anew has nothing of its last life but records."""
    counts = node.counts()
    assert (counts["pool"], counts["agents"]) == (2, 2), counts
    assert not any(counts[state] for state in ("queued", "starting", "ready", "active")), counts
    for session_id, status in ids.items():
        found = node.session(session_id)
        assert found["status"] == status, found
        assert found["reason"]
    assert not [warning for warning in node.health()["warnings"] if "drain" in warning]
    node.clean()
