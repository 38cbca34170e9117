"""P9: the time from a message that a script puts into an agent's inbox to its receipt, by the relay and by a BLPOP."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import redis

from agent_runtime.relay_link import RelayLink
from benchmarks.support import Aim, Figure, note, percentile, running, short_folder
from orchestrator.host.spawn import process_of
from orchestrator.host.state_dir import AgentFolder
from orchestrator.models import new_id
from orchestrator.store import keys
from orchestrator.store.loader import assemble
from tests.support.agent_link import AgentLink
from tests.support.processes import free_ports, poll, start_valkey, stop

ROUNDS = 1000
NODE = "n1"
#: What a session's agent is sent: the token is the largest part.
MESSAGE = {"type": "assign", "token": "x" * 300, "metadata": {}}
#: A script that only puts a message into an inbox, as each script that has one does.
POST = "-- include: mail\npost(ARGV[1], ARGV[2])\nreturn 1"
MORE = Aim("value", 1)


def measure() -> list[Figure]:
    """Send messages in turn to an agent behind a relay and to one with a connection of its own."""
    note(f"P9: {ROUNDS} messages each by the relay and by a connection of the agent's own")
    with short_folder() as folder:
        port = free_ports()
        valkey = start_valkey(folder, port)
        url = f"redis://127.0.0.1:{port}/0"
        settings = {"RUN_DIR": str(folder), "REDIS_URL": url, "NODE_ID": NODE}
        try:
            with running([sys.executable, "-m", "orchestrator.relay"], settings, folder / "relay.log"):
                poll((folder / "relay.sock").exists, "the relay listens")
                relayed, direct = asyncio.run(_compare(folder, url))
        finally:
            stop(valkey)
    name = "a BLPOP of the agent's own"
    more = [mine - other for mine, other in zip(relayed, direct, strict=True)]
    return [
        Figure("message to an agent by the relay, p50", percentile(relayed, 0.5), "ms", percentile(direct, 0.5), name),
        Figure(
            "message to an agent by the relay, p99", percentile(relayed, 0.99), "ms", percentile(direct, 0.99), name
        ),
        Figure("what the relay adds, median", percentile(more, 0.5), "ms", aim=MORE),
    ]


async def _compare(folder: Path, url: str) -> tuple[list[float], list[float]]:
    agent, other = new_id("prewarm"), new_id("prewarm")
    AgentFolder(folder / "agents").write(process_of(agent, os.getpid()))
    with redis.Redis.from_url(url) as raw:
        raw.hset(keys.agent(agent), "node", NODE)
        post = raw.register_script(assemble(POST))
        links: dict[str, Any] = {agent: RelayLink(folder / "relay.sock", agent), other: AgentLink(url, other)}
        times: dict[str, list[float]] = {agent: [], other: []}
        for number in range(-20, ROUNDS):  # the first are not counted
            for agent_id, link in links.items():
                reading = asyncio.create_task(_next(link))
                # The relay waits for messages, and so does a link of its own, before there is one.
                waiting = 1 if link is links[agent] else 2
                await asyncio.to_thread(poll, lambda n=waiting: raw.info("clients")["blocked_clients"] >= n, "it waits")
                begun = time.perf_counter()
                await asyncio.to_thread(post, args=[agent_id, json.dumps(MESSAGE | {"number": number})])
                assert (await reading)["number"] == number
                if number >= 0:
                    times[agent_id].append((time.perf_counter() - begun) * 1000)
        for link in links.values():
            await link.close()
    return times[agent], times[other]


async def _next(link: Any) -> dict[str, Any]:
    while (message := await link.next_message()) is None:
        pass
    found: dict[str, Any] = message
    return found
