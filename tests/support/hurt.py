"""Helpers for the tests of whole nodes: agent processes, calls, times of events, changed policies, reloads."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import redis

from orchestrator.call.caller import Call
from orchestrator.models import new_id
from tests.support.chaos import descendants
from tests.support.node import Node
from tests.support.processes import alive, poll


def connected(node: Node) -> "redis.Redis":
    """Return a client of a node's Redis that does not use the store."""
    return redis.Redis.from_url(node.redis_url, decode_responses=True)


def processes(node: Node) -> list[int]:
    """Return the pids of all living descendants of a node's agent host: the agents and the processes they started.

    LiveKit's native library starts some: it runs lsb_release.
    """
    host = node.program("host")
    return [pid for pid in descendants(host) if alive(pid)] if host else []


def live(raw: "redis.Redis") -> int:
    """Return how many sessions count against the limit, read in one transaction."""
    with raw.pipeline(transaction=True) as pipe:
        for state in ("starting", "ready", "active"):
            pipe.scard(f"session:{state}")
        return sum(pipe.execute())


def moment(raw: "redis.Redis", session_id: str, state: str) -> float:
    """Return the time of a session's first event with a state, in seconds by Redis's clock."""
    for entry, fields in raw.xrange(f"session:{session_id}:events"):
        if fields["state"] == state:
            return int(str(entry).partition("-")[0]) / 1000
    raise AssertionError(f"{session_id} was never {state}")


def clean_up_round(node: Node) -> None:
    """Wait for the node's next clean-up: it removes an agent that does not exist from a list."""
    nobody = new_id("prewarm")
    with connected(node) as raw:
        warm = f"node:{node.environment['NODE_ID']}:warm"
        raw.sadd(warm, nobody)
        poll(lambda: not raw.sismember(warm, nobody), "the clean-up has run")


async def talking(node: Node, user: str, **metadata: Any) -> Call:
    """Return a call in which the agent is heard."""
    call = Call(node.url, user, metadata=metadata, patience=60)
    await call.__aenter__()
    call.hum()
    await call.sound()
    return call


async def in_call(call: Call) -> dict[str, Any]:
    """Return the session of a call once user and agent are both in the room, or it is over.

    A replacement agent may be heard just before its report is recorded.
    """
    async with asyncio.timeout(60):
        while (session := await call.look())["status"] in {"starting", "ready"}:  # noqa: ASYNC110 - by HTTP
            await asyncio.sleep(0.1)
    return session


def reload(node: Node) -> dict[str, Any]:
    """Reload the agents' code; returns the result: whether it is done, and if not, why."""
    ended = node.command("agents", "reload", "--json", check=False)
    found: dict[str, Any] = json.loads(ended.stdout)
    assert (ended.returncode == 0) is found["done"], ended
    return found


@contextlib.contextmanager
def policy(node: Node, **fields: int) -> Iterator[None]:
    """Change fields of a running node's policy for a while: the scripts read them from Redis at each decision."""
    with connected(node) as raw:
        before = {name: raw.hget("policy", name) for name in fields}
        raw.hset("policy", mapping=fields)  # type: ignore[arg-type]
        try:
            yield
        finally:
            raw.hset("policy", mapping=before)  # type: ignore[arg-type]
