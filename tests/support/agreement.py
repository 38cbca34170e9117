"""Compares a node's records in Redis with the processes on the machine: once the node is idle, the two agree."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import redis

from orchestrator.errors import StoreUnavailable
from orchestrator.operations.invariants import TRANSIENT, in_records
from orchestrator.settings import Settings
from orchestrator.states import BUSY_AGENT_STATES
from orchestrator.store import Snapshot, Store, keys
from tests.support.chaos import zombies
from tests.support.node import Node

_AGENT_COMMANDS = (b"orchestrator.host.host", b"agent_runtime.runtime")


def os_agents(node: Node) -> list[int]:
    """Return the pids of all agent processes on the machine, including those that have no record."""
    found = []
    needle = f"RUN_DIR={node.run_dir}\0".encode()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            # Forked agents have the host's command line and environment, but unlike it each is a session leader.
            if os.getsid(pid) != pid:
                continue
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if any(name in command for name in _AGENT_COMMANDS) and needle in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)  # a zombie has no command line
        except OSError:
            continue
    return sorted(found)


def records(raw: "redis.Redis") -> dict[str, dict[str, str]]:
    """Return the records of all agents that have not exited."""
    ids = sorted(raw.smembers("agents"))
    with raw.pipeline() as pipe:
        for agent_id in ids:
            pipe.hgetall(f"agent:{agent_id}")
        return dict(zip(ids, pipe.execute(), strict=True))


async def _records_of(node: Node) -> tuple[Snapshot, list[str]]:
    """Return the node's records, and a text for each invariant that they violate."""
    async with Store(node.redis_url, name="agreement", keep_seconds=1) as store:
        seen = await store.snapshot()
    found = in_records(seen, Settings().policy)
    return seen, [violation.text for violation in found if violation.code not in TRANSIENT]


def disagreements(node: Node) -> list[str]:
    """Return a text for each difference between Redis and the machine, each violation, and each unfinished boot."""
    machine = os_agents(node)
    with ThreadPoolExecutor(1) as thread:  # the test may have an event loop of its own
        seen, found = thread.submit(asyncio.run, _records_of(node)).result()
    reading = seen.reading
    pids = sorted(agent.pid or 0 for agent in reading.agents)
    if pids != machine:
        found.append(f"records have the pids {pids}, the machine has {machine}")
    if reading.counts["pool"] != reading.counts["target"]:
        found.append(f"{reading.counts['pool']} agents are warm, the target is {reading.counts['target']}")
    waiting = reading.lists[keys.SESSION_STARTING] | reading.lists[keys.SESSION_UNBOUND]
    if waiting or reading.lists[keys.POOL_STARTING]:
        found.append(f"sessions {sorted(waiting)} wait, agents {sorted(reading.lists[keys.POOL_STARTING])} boot")
    for agent in reading.agents:
        if agent.state not in BUSY_AGENT_STATES and agent.id not in reading.lists[keys.POOL_READY]:
            found.append(f"agent {agent.id} is {agent.state} and serves nobody")
    if dead := zombies(node.pids()):
        found.append(f"zombies: {dead}")
    return found


def agrees(node: Node, seconds: float = 15) -> float:
    """Wait until Redis and the machine agree; returns the time it took. Fails after `seconds` with the differences."""
    begun = time.monotonic()
    while True:
        try:
            found = disagreements(node)
        except StoreUnavailable as failure:
            found = [repr(failure)]
        waited = time.monotonic() - begun
        if not found:
            return waited
        assert waited < seconds, f"after {waited:.0f} s: " + "; ".join(found)
        time.sleep(0.25)


def unsettled(node: Node, session_ids: list[str]) -> dict[str, Any]:
    """Return the sessions that have no agent and have not ended, with their status."""
    looks = {session_id: node.session(session_id).get("status") for session_id in session_ids}
    return {one: status for one, status in looks.items() if status not in {"ready", "active", "ended", "error"}}
