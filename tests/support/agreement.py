"""What Redis says of a node, beside what the machine says: when nothing happens any more, the two agree."""

import os
import time
from pathlib import Path
from typing import Any

import redis

from tests.support.chaos import zombies
from tests.support.node import Node

_AGENT_COMMANDS = (b"orchestrator.host.host", b"agents.runtime")


def os_agents(node: Node) -> list[int]:
    """Return the pids of the agent processes that the machine has, whoever knows of them."""
    found = []
    needle = f"RUN_DIR={node.run_dir}\0".encode()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            # Forked agents keep the command line and the environment of their host; each leads a session, it does not.
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


def disagreements(node: Node) -> list[str]:
    """Return, in words, in what Redis and the machine differ or the pool is not at its target."""
    with redis.Redis.from_url(node.redis_url, decode_responses=True, socket_timeout=5) as raw:
        known, machine = records(raw), os_agents(node)
        pool, target = raw.smembers("pool:ready"), int(raw.get("pool:target") or 0)
        bound = sorted(raw.sunion("session:ready", "session:active"))
        sessions = {session_id: raw.hgetall(f"session:{session_id}") for session_id in bound}
        waiting = raw.smembers("session:starting") | set(raw.zrange("session:unbound", 0, -1))
        booting = raw.smembers("pool:starting")
    found = []
    pids = sorted(int(fields.get("pid") or 0) for fields in known.values())
    if pids != machine:
        found.append(f"records have the pids {pids}, the machine has {machine}")
    if len(pool) != target:
        found.append(f"{len(pool)} agents are warm, the target is {target}")
    if waiting or booting:
        found.append(f"sessions {sorted(waiting)} wait, agents {sorted(booting)} boot")
    serving: dict[str, str] = {}
    for session_id, fields in sessions.items():
        agent = fields.get("agentId", "")
        if agent in serving:
            found.append(f"{agent} serves {serving[agent]} and {session_id}")
        serving[agent] = session_id
        if known.get(agent, {}).get("sessionId") != session_id:
            found.append(f"{session_id} is {fields.get('status')} with {agent}, which is {known.get(agent)}")
    found += [
        f"{agent} is {fields.get('state')} and serves nobody"
        for agent, fields in known.items()
        if agent not in pool and agent not in serving
    ]
    found += [f"{agent} is warm and serves {serving[agent]}" for agent in pool if agent in serving]
    if dead := zombies(node.pids()):
        found.append(f"zombies: {dead}")
    return found


def agrees(node: Node, seconds: float = 15) -> float:
    """Wait until nothing differs; returns how long that took. Fails after `seconds` with what differs."""
    begun = time.monotonic()
    while True:
        try:
            found = disagreements(node)
        except redis.RedisError as failure:
            found = [repr(failure)]
        waited = time.monotonic() - begun
        if not found:
            return waited
        assert waited < seconds, f"after {waited:.0f} s: " + "; ".join(found)
        time.sleep(0.25)


def unsettled(node: Node, session_ids: list[str]) -> dict[str, Any]:
    """Return the sessions that neither have an agent nor are over, with their status."""
    looks = {session_id: node.session(session_id).get("status") for session_id in session_ids}
    return {one: status for one, status in looks.items() if status not in {"ready", "active", "ended", "error"}}
