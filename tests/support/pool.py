"""Warm agents that exist only as records in a store, without processes."""

import json
from typing import Any

import redis

from orchestrator.config.redis_url import Address
from orchestrator.models import new_id
from orchestrator.settings import Settings
from orchestrator.store import Assignment, Store
from tests.support.agent_link import AgentLink

#: Default settings, with limits that no test reaches.
POLICY = Settings(max_sessions=10_000, heartbeat_timeout_seconds=15, session_keep_seconds=3600).policy


async def change(store: Store, **changes: float) -> None:
    """Change the policy; an earlier resize of the pool is kept."""
    await store.configure(POLICY | changes, 0)


async def warm(store: Store, url: Address | str, count: int, node: str = "n1") -> list[str]:
    """Take agents from announced to warm with the same scripts as a node; returns their ids."""
    counts = await store.counts()
    await store.set_target(counts["pool"] + counts["booting"] + count)
    ids: list[str] = []
    while len(ids) < count:  # before the first boot has succeeded, only a few are announced at once
        fresh = await store.reserve_agents([new_id("prewarm") for _ in range(count - len(ids))], node)
        assert fresh
        ids += await _boot(store, url, fresh, node, len(ids))
    return ids


async def _boot(store: Store, url: Address | str, ids: list[str], node: str, first: int) -> list[str]:
    for number, agent_id in enumerate(ids, first):
        assert await store.claim_agent(agent_id, node) == ("claimed", "")
        await store.record_spawn(agent_id, 1000 + number, 5000 + number, "boot", node)
        link = AgentLink(url, agent_id)
        await link.ready(1000 + number)
        await link.close()
    return ids


async def assign(store: Store, user: str, **changes: Any) -> Assignment:
    """Start a session with the default settings."""
    arguments: dict[str, Any] = {
        "user_id": user, "waiting_id": new_id("session"), "room_name": new_id("room"),
        "payload": json.dumps({"type": "assign", "token": "t"}), "address": "", "rate_amount": 10,
        "rate_window_ms": 60_000,
    }  # fmt: skip
    return await store.assign(**arguments | changes)


def fill(raw: "redis.Redis", count: int) -> list[str]:
    """Write many warm agents at once."""
    ids = [new_id("prewarm") for _ in range(count)]
    now = raw.time()[0] * 1000
    with raw.pipeline() as pipe:
        for agent_id in ids:
            fields = {"state": "ready", "createdAt": now, "lastBeat": now, "node": "n1", "pid": 1}
            pipe.hset(f"agent:{agent_id}", mapping=fields)
        pipe.sadd("pool:ready", *ids)
        pipe.sadd("agents", *ids)
        pipe.execute()
    return ids
