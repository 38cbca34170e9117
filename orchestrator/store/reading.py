"""The state of a deployment, read from Redis in three round trips, whatever its size.

The status page, `/api/health`, `/readyz`, `/metrics`, the node routes and the invariants all start from one `Reading`,
so they agree. The lists are read in one transaction; the records that they name are read right after it.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError, RedisError, ResponseError

from orchestrator.errors import StoreUnavailable
from orchestrator.models import Agent, Session
from orchestrator.states import AgentState
from orchestrator.store import histograms, keys
from orchestrator.store.histograms import Histogram
from orchestrator.store.loader import Scripts
from orchestrator.store.records import Breaker, HealthCheck, MemoryUse, Node, Registration
from orchestrator.store.refusals import translate

#: The sets of ids that are read whole, and the sorted sets.
SETS = (
    keys.SESSION_STARTING, keys.SESSION_READY, keys.SESSION_ACTIVE, keys.AGENTS, keys.POOL_READY, keys.POOL_STARTING,
    keys.POOL_STALE, keys.NODES, keys.NODES_DRAINING, keys.REGISTRATIONS,
)  # fmt: skip
SORTED_SETS = (keys.SESSION_QUEUED, keys.SESSION_UNBOUND, keys.DEADLINES)
_HASHES = (
    keys.POOL_STATS, keys.BEAT_TICKS, keys.BREAKER, keys.FAILING, keys.POLICY, keys.POOL_SIZING,
    *map(keys.histogram, histograms.BOUNDS),
)  # fmt: skip
_STRINGS = (keys.POOL_TARGET, keys.LIVEKIT_DOWN, keys.MEMORY_LOW, keys.BOOT_ERROR, keys.BOOT_ERROR_AGENT)
#: Live sessions by state, and the list of each.
_SESSION_LISTS = {
    "queued": keys.SESSION_QUEUED, "starting": keys.SESSION_STARTING, "ready": keys.SESSION_READY,
    "active": keys.SESSION_ACTIVE,
}  # fmt: skip
#: Parts of a session's record that end with the session: its token, and what was said.
PRIVATE = frozenset({"payload", "conversation"})
#: What `counts` counts, and the list of each.
_COUNTED = {"pool": keys.POOL_READY, "booting": keys.POOL_STARTING, "stale": keys.POOL_STALE, "agents": keys.AGENTS}


@dataclass(frozen=True, slots=True)
class Server:
    """The state of the Redis server itself."""

    now: float  #: Unix seconds
    latency: float  #: seconds of one round trip
    refusal: str | None  #: why it takes no writes; None when it does
    memory: MemoryUse
    max_sessions: int | None  #: at once, of all nodes; None while no node has set the store up


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of a deployment at one moment. Times are Unix seconds."""

    server: Server
    lists: Mapping[str, frozenset[str]]  #: ids, by the key of the set
    policy: Mapping[str, float]
    target: int | None  #: warm agents to keep; None while no node has set the store up
    stats: Mapping[str, float]  #: the hash `pool:stats`
    histograms: Mapping[str, Histogram]
    queues: Mapping[str, int]  #: Celery tasks that wait, by queue
    ticks: Mapping[str, float]  #: when beat last turned (`beat`) and last sent each of its tasks
    nodes: Mapping[str, Node]  #: those that live
    draining_nodes: Mapping[str, Node]  #: those that drain, also when they are gone
    registrations: Mapping[str, Registration]  #: of api processes with LiveKit
    agents: tuple[Agent, ...]  #: those that have not exited
    health_checks: Mapping[str, HealthCheck]  #: the last one of each agent
    breaker: Breaker
    boot_error: str | None  #: why the last boot failed, within the last 5 minutes; None when the last one worked
    boot_error_agent: str | None
    failing_calls: int  #: calls in a row that lost an agent which lived and served no more
    failing_cause: str
    livekit_trouble: str | None  #: why LiveKit does not answer; None when it does
    memory_shortage: str | None  #: why no agent is started for lack of memory
    sizing: str | None  #: why POOL_AUTO chose the target; None when it did not choose

    @property
    def now(self) -> float:
        """When it was read."""
        return self.server.now

    @property
    def max_sessions(self) -> int | None:
        """Sessions at once, of all nodes; None while no node has set the store up."""
        return self.server.max_sessions

    @property
    def sessions(self) -> dict[str, int]:
        """How many live sessions are in each state."""
        return {state: len(self.lists[key]) for state, key in _SESSION_LISTS.items()}

    @property
    def live_sessions(self) -> frozenset[str]:
        """The ids of the sessions that are not over."""
        return frozenset().union(*(self.lists[key] for key in _SESSION_LISTS.values()))

    @property
    def agents_by_state(self) -> dict[str, int]:
        """How many living agents are in each state."""
        counts = Counter(agent.state for agent in self.agents)
        return {state.value: counts[state] for state in AgentState if state is not AgentState.EXITED}

    @property
    def counts(self) -> dict[str, int]:
        """How many sessions and agents there are, by what they do, and the pool's target."""
        counted = {name: len(self.lists[key]) for name, key in _COUNTED.items()}
        return counted | self.sessions | {"target": self.target or 0}

    @property
    def configured(self) -> bool:
        """Whether a node has set the store up, and Redis has not lost that."""
        return bool(self.policy) and self.target is not None

    def node(self, node_id: str) -> Node:
        """Return a node; one without a record is neither alive nor draining."""
        return self.nodes.get(node_id) or self.draining_nodes.get(node_id) or Node(node_id)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A reading, and every record of a session or an agent that is kept, whatever the lists say."""

    reading: Reading
    sessions: Mapping[str, Session]
    agents: Mapping[str, Agent]
    broken: frozenset[str]  #: keys of records that cannot be read
    private: frozenset[tuple[str, str]]  #: (session id, part) of each of `PRIVATE` that is kept
    counted: frozenset[str]  #: live sessions that count against their user's cap
    rooms: Mapping[str, str | None]  #: the session that is found by the room, for each live session's room
    users: Mapping[str, str]  #: the session that is found by the user, for each user who has one
    lasting: Mapping[str, str]  #: keys of ended sessions and exited agents that never expire, each with its record's

    @property
    def lists(self) -> Mapping[str, frozenset[str]]:
        """Ids, by the key of the set."""
        return self.reading.lists

    @property
    def deadlines(self) -> frozenset[tuple[str, str]]:
        """(kind, id) of each deadline."""
        members = (member.partition("|") for member in self.lists[keys.DEADLINES])
        return frozenset((kind, name) for kind, _, name in members)


async def take(redis: Any, scripts: Scripts) -> Reading:
    """Read everything. Raises redis-py's errors."""
    server = await _server(redis, scripts)
    fixed = await _read_all(
        redis,
        *(("smembers", key) for key in SETS),
        *(("zrange", key, 0, -1) for key in SORTED_SETS),
        *(("hgetall", key) for key in _HASHES),
        *(("get", key) for key in _STRINGS),
    )
    lists: dict[str, frozenset[str]] = {key: frozenset(fixed[key]) for key in (*SETS, *SORTED_SETS)}
    members = await _members(redis, lists)
    target, failing = fixed[keys.POOL_TARGET], fixed[keys.FAILING]
    return Reading(
        server=server,
        lists=lists | members.lists,
        policy={name: float(value) for name, value in fixed[keys.POLICY].items()},
        target=None if target is None else int(target),
        stats={name: float(value) for name, value in fixed[keys.POOL_STATS].items()},
        histograms={s: histograms.read(s, fixed[keys.histogram(s)]) for s in histograms.BOUNDS},
        queues=members.queues,
        ticks={name: float(at) for name, at in fixed[keys.BEAT_TICKS].items()},
        nodes={name: node for name, node in members.nodes.items() if node.alive},
        draining_nodes={name: node for name, node in members.nodes.items() if node.draining},
        registrations=members.registrations,
        agents=members.agents,
        health_checks=members.health_checks,
        breaker=Breaker.from_hash(fixed[keys.BREAKER], now=server.now, booting=bool(lists[keys.POOL_STARTING])),
        boot_error=fixed[keys.BOOT_ERROR],
        boot_error_agent=fixed[keys.BOOT_ERROR_AGENT],
        failing_calls=int(failing.get("calls", 0)),
        failing_cause=failing.get("cause", ""),
        livekit_trouble=fixed[keys.LIVEKIT_DOWN],
        memory_shortage=fixed[keys.MEMORY_LOW],
        sizing=fixed[keys.POOL_SIZING].get("why"),
    )


async def _server(redis: Any, scripts: Scripts) -> Server:
    """Read what the server may refuse one by one. In a transaction, one refusal would discard everything."""
    started = time.perf_counter()
    async with redis.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.set(keys.PROBE, 1, ex=60)
        pipe.info("memory")
        scripts.queue(pipe, "capacity", [""])
        clock, probe, memory, capacity = await pipe.execute(raise_on_error=False)
    latency = time.perf_counter() - started
    if isinstance(clock, RedisError):
        raise clock
    if isinstance(capacity, NoScriptError):  # Redis was restarted; `call` loads the script
        capacity = await scripts.call("capacity", args=[""])
    if isinstance(capacity, RedisError):
        raise capacity
    seconds, microseconds = clock
    return Server(
        now=int(seconds) + int(microseconds) / 1e6,
        latency=latency,
        refusal=_refusal(probe),
        memory=_memory_use(memory),
        max_sessions=int(capacity[1]) or None,
    )


def _refusal(reply: object) -> str | None:
    if not isinstance(reply, RedisError):
        return None
    failure = translate(reply)
    if isinstance(failure, StoreUnavailable):
        return failure.detail
    raise reply


def _memory_use(reply: Any) -> MemoryUse:
    if isinstance(reply, ResponseError):  # an ACL may forbid INFO
        return MemoryUse()
    return MemoryUse(
        int(reply.get("used_memory", 0)),
        int(reply.get("maxmemory", 0)),
        str(reply.get("maxmemory_policy", "")),
        int(reply.get("total_system_memory", 0)),
    )


class _Members(NamedTuple):
    """What the lists name."""

    nodes: dict[str, Node]  #: those that live or drain
    agents: tuple[Agent, ...]
    health_checks: dict[str, HealthCheck]
    registrations: dict[str, Registration]
    queues: dict[str, int]
    lists: dict[str, frozenset[str]]  #: the warm and the busy agents of each node


async def _members(redis: Any, lists: Mapping[str, frozenset[str]]) -> _Members:
    node_ids = sorted(lists[keys.NODES] | lists[keys.NODES_DRAINING])
    agent_ids, registration_ids = sorted(lists[keys.AGENTS]), sorted(lists[keys.REGISTRATIONS])
    closing = [keys.session(member[6:]) for member in lists[keys.DEADLINES] if member.startswith("close|")]
    node_lists = [key(node) for node in node_ids for key in (keys.node_warm, keys.node_busy)]
    queues = [keys.CELERY_QUEUE, *map(keys.node_queue, node_ids)]
    replies = await _read_all(
        redis,
        *(("hgetall", keys.node(node)) for node in node_ids),
        *(("get", keys.node_short(node)) for node in node_ids),
        *(("smembers", key) for key in node_lists),
        *(("llen", queue) for queue in queues),
        *(("hgetall", keys.agent(agent_id)) for agent_id in agent_ids),
        *(("hgetall", keys.agent_health(agent_id)) for agent_id in agent_ids),
        *(("hgetall", keys.registration(each)) for each in registration_ids),
        *(("hget", session, "node") for session in closing),
    )
    agents = _agents({agent_id: replies[keys.agent(agent_id)] for agent_id in agent_ids})
    living, open_rooms = Counter(agent.node for agent in agents), Counter(replies[session] for session in closing)
    nodes = {
        node: replace(
            Node.from_hash(node, replies[keys.node(node)]),
            draining=node in lists[keys.NODES_DRAINING],
            memory_shortage=replies[keys.node_short(node)],
            warm=len(replies[keys.node_warm(node)]),
            busy=len(replies[keys.node_busy(node)]),
            agents=living[node],
            # guard: drain-waits-for-rooms
            closing=open_rooms[node],
        )
        for node in node_ids
    }
    return _Members(
        nodes=nodes,
        agents=agents,
        health_checks={each: HealthCheck.from_hash(replies[keys.agent_health(each)]) for each in agent_ids},
        registrations={
            each: Registration.from_hash(fields)
            for each in registration_ids
            if (fields := replies[keys.registration(each)])
        },
        queues={queue: replies[queue] for queue in queues},
        lists={key: frozenset(replies[key]) for key in node_lists},
    )


def _agents(hashes: Mapping[str, Mapping[str, str]]) -> tuple[Agent, ...]:
    """Build the agents whose records are whole; the invariants report the others."""
    agents = []
    for agent_id, fields in hashes.items():
        with contextlib.suppress(KeyError, ValueError):
            agents.append(Agent.from_hash(agent_id, fields))
    return tuple(agents)


async def _read_all(redis: Any, *commands: tuple[Any, ...]) -> dict[str, Any]:
    """Run commands, each on another key, in one transaction; returns their replies by key."""
    async with redis.pipeline(transaction=True) as pipe:
        for name, *arguments in commands:
            getattr(pipe, name)(*arguments)
        replies = await pipe.execute()
    return {key: reply for (_, key, *_), reply in zip(commands, replies, strict=True)}
