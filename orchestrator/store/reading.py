"""Everything that is measured, read from Redis in two round trips, whatever its size."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from orchestrator.states import AgentState
from orchestrator.store import histograms, keys
from orchestrator.store.histograms import Histogram

#: Sessions by state, as lists of them are named.
_SESSIONS = {"starting": keys.SESSION_STARTING, "ready": keys.SESSION_READY, "active": keys.SESSION_ACTIVE}


@dataclass(frozen=True, slots=True)
class Reading:
    """What Redis says at one moment. Times are Unix seconds."""

    now: float
    latency: float  #: seconds of one round trip to Redis
    sessions: Mapping[str, int]  #: live ones by state
    agents: Mapping[str, int]  #: living ones by state
    pool: int  #: warm agents
    target: int | None  #: None while no node has set the store up
    max_sessions: int | None
    stats: Mapping[str, str]  #: the hash `pool:stats`
    histograms: Mapping[str, Histogram]
    queues: Mapping[str, int]  #: Celery tasks that wait, by queue
    ticks: Mapping[str, float]  #: when beat last turned (`beat`) and last sent each of its tasks
    nodes: Mapping[str, Mapping[str, str]]  #: those that live
    draining: frozenset[str]
    placed: Mapping[str, tuple[int, int]]  #: of each node: warm agents, agents that have a session
    boot_failures: int  #: in a row
    breaker_open: bool
    livekit_up: bool
    memory_low: bool


async def take(redis: Any, most: int | None) -> Reading:
    """Read everything but `most`: the sessions at once of all nodes, None before one has set the store up."""
    started = time.perf_counter()
    seconds, microseconds = await redis.time()
    latency = time.perf_counter() - started
    async with redis.pipeline(transaction=True) as pipe:
        pipe.smembers(keys.NODES)
        pipe.smembers(keys.NODES_DRAINING)
        pipe.smembers(keys.AGENTS)
        pipe.scard(keys.POOL_READY)
        pipe.get(keys.POOL_TARGET)
        pipe.hgetall(keys.POOL_STATS)
        pipe.hgetall(keys.BEAT_TICKS)
        pipe.hgetall(keys.BREAKER)
        pipe.exists(keys.LIVEKIT_DOWN)
        pipe.exists(keys.MEMORY_LOW)
        pipe.zcard(keys.SESSION_QUEUED)
        for name in _SESSIONS.values():
            pipe.scard(name)
        for series in histograms.BOUNDS:
            pipe.hgetall(keys.histogram(series))
        (
            node_ids, draining, agent_ids, pool, target, stats, ticks, breaker, down, low, queued, *more,
        ) = await pipe.execute()  # fmt: skip
    served, counted = more[: len(_SESSIONS)], more[len(_SESSIONS) :]
    nodes, placed, queues, agents = await _members(redis, sorted(node_ids), sorted(agent_ids))
    return Reading(
        now=int(seconds) + int(microseconds) / 1e6,
        latency=latency,
        sessions={"queued": queued} | dict(zip(_SESSIONS, served, strict=True)),
        agents=agents,
        pool=pool,
        target=None if target is None else int(target),
        max_sessions=most,
        stats=stats,
        histograms={s: histograms.read(s, fields) for s, fields in zip(histograms.BOUNDS, counted, strict=True)},
        queues=queues,
        ticks={name: float(at) for name, at in ticks.items()},
        nodes=nodes,
        draining=frozenset(draining),
        placed=placed,
        boot_failures=int(breaker.get("failures", 0)),
        breaker_open="openedAt" in breaker,
        livekit_up=not down,
        memory_low=bool(low),
    )


async def _members(
    redis: Any, node_ids: list[str], agent_ids: list[str]
) -> tuple[dict[str, dict[str, str]], dict[str, tuple[int, int]], dict[str, int], Counter[str]]:
    """Return the nodes that live, their warm and busy agents, how long each Celery queue is, the agents by state."""
    async with redis.pipeline(transaction=False) as pipe:
        for node in node_ids:
            pipe.hgetall(keys.node(node))
        for node in node_ids:
            pipe.scard(keys.node_warm(node))
        for node in node_ids:
            pipe.scard(keys.node_busy(node))
        for queue in (keys.CELERY_QUEUE, *map(keys.node_queue, node_ids)):
            pipe.llen(queue)
        for agent in agent_ids:
            pipe.hget(keys.agent(agent), "state")
        answers = iter(await pipe.execute())
    found = dict(zip(node_ids, islice(answers, len(node_ids)), strict=True))
    nodes = {node: fields for node, fields in found.items() if fields}
    warm, busy = list(islice(answers, len(node_ids))), list(islice(answers, len(node_ids)))
    placed = {node: counts for node, *counts in zip(node_ids, warm, busy, strict=True) if node in nodes}
    shared, *own = islice(answers, len(node_ids) + 1)
    queues = {keys.CELERY_QUEUE: shared}
    queues |= {keys.node_queue(node): length for node, length in zip(node_ids, own, strict=True) if node in nodes}
    states = Counter({state.value: 0 for state in AgentState if state is not AgentState.EXITED})
    states.update(state for state in answers if state in states)
    return nodes, {node: (int(counts[0]), int(counts[1])) for node, counts in placed.items()}, queues, states
