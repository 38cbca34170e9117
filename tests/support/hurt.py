"""What the tests that hurt nodes share: their long forms, agents as the machine sees them, and what is heard in a call."""

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any

import redis

from agents.caller import Call
from tests.support.chaos import descendants
from tests.support.node import Node
from tests.support.processes import alive, poll

#: With CHAOS_LONG=1 the figures are those of the specification.
LONG = os.environ.get("CHAOS_LONG") == "1"


def connected(node: Node) -> "redis.Redis":
    """Return a plain client of a node's Redis."""
    return redis.Redis.from_url(node.redis_url, decode_responses=True)


def processes(node: Node) -> list[int]:
    """Return the pids of what lives below a node's agent host: its agents and what they started."""
    assert node.process is not None
    for pid in descendants(node.process.pid):
        with contextlib.suppress(OSError):
            if b"orchestrator.node.host" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                # Forked agents have the host's command line: the first, an ancestor, stands before them.
                return [each for each in descendants(pid) if alive(each)]
    return []


def live(raw: "redis.Redis") -> int:
    """Return how many sessions take a place, at one moment."""
    with raw.pipeline(transaction=True) as pipe:
        for state in ("starting", "ready", "active"):
            pipe.scard(f"session:{state}")
        return sum(pipe.execute())


def moment(raw: "redis.Redis", session_id: str, state: str) -> float:
    """Return when a session was first said to be in a state, in seconds by Redis's clock."""
    for entry, fields in raw.xrange(f"session:{session_id}:events"):
        if fields["state"] == state:
            return int(str(entry).partition("-")[0]) / 1000
    raise AssertionError(f"{session_id} was never {state}")


async def talking(node: Node, user: str, **metadata: Any) -> Call:
    """Return a call in which the agent is heard."""
    call = Call(node.url, user, metadata=metadata, patience=60)
    await call.__aenter__()
    call.hum()
    await call.sound()
    return call


class Ear:
    """Listens to a call all the time: the longest silence from entry to exit, in seconds."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.silence = 0.0

    async def __aenter__(self) -> "Ear":
        self._began = time.monotonic()
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self._look()

    def _look(self) -> None:
        self.silence = max(self.silence, time.monotonic() - max(self._call.last_sound, self._began))

    async def _listen(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(0.02)


def reload(node: Node) -> dict[str, Any]:
    """Have new agent code brought live; returns how that ended: `done`, or not and why."""
    begun = node.http.post("/api/agents/reload", headers=node.admin).raise_for_status().json()

    def state() -> Any:
        # A node whose record has expired for a moment is on its way back.
        answer = node.http.get(f"/api/agents/reload/{begun['reloadId']}", headers=node.admin)
        found = answer.json()
        over = answer.is_success and (
            found["done"] or any(each.startswith("failed") for each in found["nodes"].values())
        )
        return found if over else None

    found: dict[str, Any] = poll(state, "the reload is over", 120)
    return found
