"""P5: ten starts at once on an empty pool."""

import asyncio
import contextlib
import json
import time
from statistics import median
from typing import Any

import redis
from livekit import api

from agent_runtime.context import STATE_ATTRIBUTE
from benchmarks.support import (
    Aim,
    Connection,
    Figure,
    LiveKitWorker,
    livekit_environment,
    note,
    settle,
    short_folder,
    start_request,
)
from tests.support.node import Node
from tests.support.processes import poll

STARTS = 10
ROUNDS = 5
PATIENCE = 90.0
AIM = Aim("value", 1.5)


def measure() -> list[Figure]:
    """Measure ours and livekit-agents' worker without idle processes in turn, each time when both have settled."""
    with short_folder() as folder, contextlib.ExitStack() as stack:
        (folder / "node").mkdir()
        note("P5: starts a node and livekit-agents' workers")
        node = stack.enter_context(Node(folder / "node", POOL_TARGET=0))
        references = [
            stack.enter_context(LiveKitWorker(node, folder, idle=0, models="prewarm").up()),
            stack.enter_context(LiveKitWorker(node, folder, idle=0, models="preload").up()),
        ]
        return asyncio.run(_compare(node, references))


async def _compare(node: Node, references: list[LiveKitWorker]) -> list[Figure]:
    ours: list[float] = []
    theirs: dict[str, list[float]] = {worker.name: [] for worker in references}
    url, *pair = livekit_environment(node).values()
    async with api.LiveKitAPI(url.replace("ws", "http", 1), *pair) as livekit:
        for number in range(-1, ROUNDS):
            await asyncio.to_thread(settle, node, references)
            ours.append(await asyncio.to_thread(_start_ten, node, number))
            for worker in references:
                await asyncio.to_thread(settle, node, references)
                theirs[worker.name].append(await _dispatch_ten(worker, livekit, number))
            if number < 0:  # not counted: livekit-agents starts its fork server with the first job
                for times in (ours, *theirs.values()):
                    times.clear()
            note(f"P5: round {number + 1} of {ROUNDS}")
        await asyncio.to_thread(settle, node, references)
    return [
        Figure(f"{STARTS} starts on an empty pool until all are ready, {what}", of(ours), "s", of(times), name,
               AIM if what == "median" and name == references[0].name else None)
        for name, times in theirs.items()
        for what, of in (("median", median), ("worst", max))
    ]  # fmt: skip


def _start_ten(node: Node, number: int) -> float:
    """Return the seconds until ten sessions are ready; checks that each has a different agent."""
    connections = [Connection(int(node.environment["PORT"])) for _ in range(STARTS)]
    # redis-py types every reply as bytes or str, whatever decode_responses says.
    with redis.Redis.from_url(node.redis_url, decode_responses=True, socket_timeout=PATIENCE + 5) as raw_client:
        raw: Any = raw_client
        last = next((found for found, _ in raw.xrevrange("events", count=1)), "0-0")
        begun = time.perf_counter()
        for client, connection in enumerate(connections):
            connection.send(start_request(f"{number}-{client}"))
        answers = [connection.receive() for connection in connections]
        assert [status for status, _ in answers] == [202] * STARTS, answers
        sessions = {json.loads(body)["sessionId"] for _, body in answers}
        assert len(sessions) == STARTS, "two starts got the same session"
        waiting = set(sessions)
        while waiting:
            left = begun + PATIENCE - time.perf_counter()
            assert left > 0, f"not ready within {PATIENCE:.0f} s: {waiting}"
            for event in _news(raw, last, left):
                last, fields = event
                assert fields["state"] != "error", fields
                if fields["state"] == "ready":
                    waiting.discard(fields.get("session"))
        seconds = time.perf_counter() - begun
    for connection in connections:
        connection.close()
    agents = {node.session(session)["agentId"] for session in sessions}
    assert len(agents) == STARTS, "two sessions got the same agent"
    for session in sessions:
        node.end(session)
    return seconds


def _news(raw: Any, last: str, seconds: float) -> list[tuple[str, dict[str, str]]]:
    """Wait for events after a given one; returns (id, fields) of each new event."""
    found = raw.xread({"events": last}, block=max(1, int(seconds * 1000))) or []
    return [event for _, events in found for event in events]


async def _dispatch_ten(worker: LiveKitWorker, livekit: api.LiveKitAPI, number: int) -> float:
    """Return the seconds until ten jobs have their process, with the models in it, and have begun."""
    rooms = [f"{worker.agent_name}-{number}-{client}" for client in range(STARTS)]
    requests = [api.CreateAgentDispatchRequest(agent_name=worker.agent_name, room=room) for room in rooms]
    begun = time.perf_counter()
    await asyncio.gather(*(livekit.agent_dispatch.create_dispatch(request) for request in requests))
    await asyncio.to_thread(poll, lambda: worker.count("job") == STARTS, f"ten jobs of {worker.name} run", PATIENCE)
    seconds = time.perf_counter() - begun
    await asyncio.gather(*(_close(livekit, room) for room in rooms))
    return seconds


async def _close(livekit: api.LiveKitAPI, room: str) -> None:
    """Delete a room once its agent has joined: an agent that is cut off while joining retries for a minute."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await livekit.room.list_participants(api.ListParticipantsRequest(room=room))
            if any(STATE_ATTRIBUTE in participant.attributes for participant in found.participants):
                break
            await asyncio.sleep(0.05)
    await livekit.room.delete_room(api.DeleteRoomRequest(room=room))
