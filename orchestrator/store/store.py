"""Everything the orchestrator reads from and writes to Redis, one method per operation."""

import json
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from redis.exceptions import RedisError

from orchestrator.models import ID_PATTERN, Agent, Session
from orchestrator.store import keys, reading
from orchestrator.store.connection import BLOCK_SECONDS, connect, connect_blocking
from orchestrator.store.reading import Reading
from orchestrator.store.samples import Samples
from orchestrator.store.scripts import Scripts, translate

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", Session, Agent)

#: Seconds for which one may ask how a reload went.
RELOAD_KEEP_SECONDS = 3600
_SETS = (
    keys.SESSION_STARTING, keys.SESSION_READY, keys.SESSION_ACTIVE, keys.AGENTS, keys.POOL_READY, keys.POOL_STARTING,
    keys.POOL_STALE, keys.NODES_DRAINING,
)  # fmt: skip


def _translated(
    method: Callable[Concatenate["Store", P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["Store", P], Coroutine[Any, Any, R]]:
    @wraps(method)
    async def wrapper(self: "Store", /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await method(self, *args, **kwargs)
        except RedisError as failure:
            raise translate(failure) from failure

    return wrapper


@dataclass(frozen=True, slots=True)
class Assignment:
    """What `assign` decided (see assign.lua)."""

    outcome: str
    session_id: str
    detail: str  #: limited: ms after which to try again; broken: the cause
    refill: bool  #: the caller must queue a refill
    agent_id: str = ""
    node: str = ""  #: where the assigned agent lives, and as which process
    pid: int = 0
    start_ticks: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A job of LiveKit's, which asks for an agent in its room, and the node whose door it came by."""

    id: str
    dispatch_id: str
    node: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """How full we are (see capacity.lua)."""

    live: int
    most: int
    refusal: str  #: why a job would not be served now, '' when it would: an outcome of `assign`
    detail: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A session that is over."""

    first: bool  #: this call ended it
    status: str


@dataclass(frozen=True, slots=True)
class Exit:
    """What an agent's exit meant: session concerned, what became of it, the agent's state before."""

    session_id: str | None
    outcome: str  #: '' | replaced | waiting | error
    before: str


@dataclass(frozen=True, slots=True)
class Action:
    """What a missed deadline leaves to do: stop an agent, close a session's room or look at it, refill, compare all
    rooms, or send an alert."""

    what: str
    id: str
    node: str


@dataclass(frozen=True, slots=True)
class Breaker:
    """How boots go: `closed` when the last one worked, `open` after five failures in a row, `half-open` while one is
    tried."""

    state: str
    failures: int = 0
    cause: str | None = None
    retry_seconds: float = 0.0  #: until the next attempt


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What Redis says of sessions and agents. Lists of ids are by the name of their key."""

    now: float
    policy: Mapping[str, int]
    sessions: Mapping[str, Session]
    agents: Mapping[str, Agent]
    lists: Mapping[str, frozenset[str]]
    deadlines: frozenset[tuple[str, str]]  #: (kind, id)
    broken: frozenset[str]  #: keys of records that cannot be read
    private: frozenset[tuple[str, str]]  #: (session id, `payload` or `conversation`) of each that is kept
    counted: frozenset[str]  #: live sessions that count against their user's cap
    rooms: Mapping[str, str | None]  #: the session that is found by the room, for each live session's room


class Store:
    """The one door to Redis. Raises `StoreUnavailable` within twice `patience` seconds when Redis does not answer."""

    def __init__(self, redis_url: str, *, name: str, keep_seconds: float, patience: float = 2.0) -> None:
        # redis-py types every reply as bytes or str, whatever decode_responses says.
        self._redis: Any = connect(redis_url, name=name, patience=patience)
        self._blocking: Any = connect_blocking(redis_url, name=f"{name}.blocking")
        self._scripts = Scripts(self._redis)
        self._samples = Samples(self._scripts)
        self._keep = max(1, int(keep_seconds))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._samples.close()
        await self._redis.aclose()
        await self._blocking.aclose()

    @_translated
    async def ping(self) -> float:
        """Return the round trip to Redis, in seconds."""
        started = time.perf_counter()
        await self._redis.ping()
        return time.perf_counter() - started

    # What the scripts decide by

    @_translated
    async def write_policy(self, policy: Mapping[str, int]) -> None:
        """Write what the scripts decide by. From now on agents that Redis has lost may register."""
        await self._redis.hset(keys.POLICY, mapping={name: str(value) for name, value in policy.items()})

    async def configure(self, policy: Mapping[str, int], pool_target: int) -> None:
        """Set the store up: write the policy, and the pool's target when that is new or was changed; a resize made
        since then stays otherwise. From now on starts are answered."""
        await self.write_policy(policy)
        await self._open(pool_target)

    @_translated
    async def _open(self, pool_target: int) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(keys.POOL_PROVEN)
            if await self._redis.hget(keys.POOL_STATS, "configured_target") != str(pool_target):
                pipe.set(keys.POOL_TARGET, pool_target)
                pipe.hset(keys.POOL_STATS, "configured_target", str(pool_target))
            await pipe.execute()

    @_translated
    async def configured(self) -> bool:
        """Return whether a node has set the store up, and Redis still knows."""
        return int(await self._redis.exists(keys.POLICY, keys.POOL_TARGET)) == 2

    async def due(self, limit: int = 100) -> list[Action]:
        """Act on the deadlines that are over; returns what is left to do outside Redis."""
        return [Action(*row) for row in await self._scripts.call("deadlines_due", args=[limit])]

    # Sessions

    async def assign(
        self,
        *,
        user_id: str,
        waiting_id: str,
        room_name: str,
        payload: str,
        address: str,
        rate_amount: int,
        rate_window_ms: int,
        idempotency_key: str = "",
        fingerprint: str = "",
        job: Job | None = None,
    ) -> Assignment:
        """Take a warm agent for a user, or have one spawned, or put the session in line. One round trip, atomic.

        For a job the session is never put in line, and none begins where the room has one.
        """
        outcome, session_id, detail, refill, *process = await self._scripts.call(
            "assign",
            args=[
                user_id,
                waiting_id,
                room_name,
                payload,
                address,
                rate_amount,
                rate_window_ms,
                idempotency_key,
                fingerprint,
                *((job.id, job.dispatch_id, job.node) if job else ("", "", "")),
            ],
        )
        agent_id, node, pid, ticks = process or ("", "", "", "")
        return Assignment(
            outcome, session_id or "", str(detail or ""), bool(refill), agent_id, node, int(pid or 0), int(ticks or 0)
        )

    async def limited(self, what: str, address: str, amount: int, window_ms: int) -> float:
        """Count one more of something by address; returns 0, or seconds after which it is allowed again."""
        return int(await self._scripts.call("rate", args=[what, address, amount, window_ms])) / 1000

    async def capacity(self, node: str) -> Capacity:
        """Return whether a job that comes by a node's door would be served now."""
        live, most, refusal, detail = await self._scripts.call("capacity", args=[node])
        return Capacity(int(live), int(most), refusal, detail)

    @_translated
    async def session_in(self, room_name: str) -> str | None:
        """Return the id of a room's newest session, live or over; None when no kept one was in it."""
        session_id: str | None = await self._redis.get(keys.room(room_name))
        return session_id

    @_translated
    async def session_of_job(self, key: str) -> str | None:
        """Return the id of the session that was made for a request with this Idempotency-Key."""
        session_id: str | None = await self._redis.hget(keys.idempotency(key), "session")
        return session_id

    @_translated
    async def job_assigned(self, session_id: str) -> None:
        """Say that LiveKit has given us the job of a session."""
        await self._redis.zrem(keys.DEADLINES, f"job|{session_id}")

    @_translated
    async def keep_answer(self, idempotency_key: str, answer: str) -> None:
        """Keep the answer to a request with an Idempotency-Key, for its repetitions."""
        await self._redis.set(keys.answer(idempotency_key), answer, ex=self._keep)

    @_translated
    async def release_key(self, idempotency_key: str) -> None:
        """Forget a request with an Idempotency-Key that came to nothing: it may be sent again."""
        await self._redis.delete(keys.idempotency(idempotency_key))

    @_translated
    async def kept_answer(self, idempotency_key: str) -> str | None:
        """Return the answer that was given to the first request with this key, None before it was given."""
        answer: str | None = await self._redis.get(keys.answer(idempotency_key))
        return answer

    @_translated
    async def session(self, session_id: str) -> Session | None:
        """Return one session, None when it is unknown."""
        fields = await self._redis.hgetall(keys.session(session_id))
        return Session.from_hash(session_id, fields) if fields.get("status") else None

    @_translated
    async def sessions(self, limit: int = 200) -> list[Session]:
        """Return the kept sessions, newest first."""
        return await self.session_records(await self.session_ids(limit))

    @_translated
    async def session_ids(self, limit: int) -> list[str]:
        """Return the ids of the kept sessions, newest first."""
        return list(await self._redis.zrevrange(keys.SESSIONS, 0, limit - 1))

    @_translated
    async def session_records(self, ids: Sequence[str]) -> list[Session]:
        """Return these sessions, as far as their records are kept."""
        hashes = await self._hashes([keys.session(session_id) for session_id in ids])
        return [Session.from_hash(i, h) for i, h in zip(ids, hashes, strict=True) if h.get("status")]

    async def live_sessions(self) -> list[Session]:
        """Return the sessions that are not over."""
        return await self.session_records(sorted(await self.live_session_ids()))

    @_translated
    async def position(self, session_id: str) -> int | None:
        """Return the place of a session that waits, in line or for its agent: 1 = next; None when it does not."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrank(keys.SESSION_QUEUED, session_id)
            pipe.zrank(keys.SESSION_UNBOUND, session_id)
            queued, unbound = await pipe.execute()
        rank = unbound if queued is None else queued
        return None if rank is None else int(rank) + 1

    async def end_session(self, session_id: str, status: str, reason: str) -> Ended | None:
        """End a session (`ended` or `error`): its agent is told to leave, its room is deleted by the next node that
        looks. Idempotent; None when unknown."""
        reply = await self._scripts.call("session_end", args=[session_id, status, reason, ""])
        if not reply:
            return None
        first, status = reply
        return Ended(bool(first), status)

    @_translated
    async def room_closed(self, session_id: str) -> None:
        """Say that the room of a session that is over is gone."""
        await self._redis.zrem(keys.DEADLINES, f"close|{session_id}")

    # What LiveKit says

    async def webhook(self, event_id: str, event: str, room: str, created_at: int, dropped: int) -> str:
        """Record a webhook whose signature is verified, once. What it says moves nothing: a node looks at the room.

        Returns recorded, foreign (a room that is not ours, or none), replayed or stale.
        """
        return str(await self._scripts.call("webhook", args=[event_id, event, room, created_at, dropped]))

    async def seen(
        self, session_id: str, agent_id: str, *, exists: bool, user: str = "gone", agent: bool = False
    ) -> str:
        """Say what LiveKit says of a session's room; `agent_id`: whom the session had before LiveKit was asked.

        Returns what was done about it, see session_look.lua; '' when nothing had to be.
        """
        return str(await self._scripts.call("session_look", args=[session_id, agent_id, int(exists), user, int(agent)]))

    @_translated
    async def look_again(self, session_id: str, seconds: float) -> None:
        """Have a node look at a session's room at LiveKit in a while."""
        await self._redis.zadd(keys.DEADLINES, {f"look|{session_id}": (await self.now() + seconds) * 1000})

    @_translated
    async def bound_and_over(self, since: float) -> tuple[list[Session], list[Session]]:
        """Return the sessions that have an agent, and of those that began after `since` (Unix seconds) the ones that
        are over."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.sunion([keys.SESSION_READY, keys.SESSION_ACTIVE])
            pipe.zrangebyscore(keys.SESSIONS, since * 1000, "+inf")
            bound, recent = await pipe.execute()
        records = await self._records(Session.from_hash, sorted(bound.union(recent)), keys.session, set())
        live = [session for session in records.values() if session.id in bound and session.live]
        return live, [session for session in records.values() if not session.live]

    @_translated
    async def events(self, session_id: str, after: str = "0-0") -> list[dict[str, Any]]:
        """Return the history of a session behind an entry, oldest first: `id`, `at` in Unix seconds, `state`, and what
        belongs to it."""
        rows = await self._redis.xrange(keys.events(session_id), min=f"({after}")
        return [
            {"id": entry, "at": int(entry.partition("-")[0]) / 1000}
            | {name: int(value) if name == "position" else value for name, value in fields.items() if value}
            for entry, fields in rows
        ]

    @_translated
    async def last_change(self) -> str:
        """Return the id of the last thing that happened to any session or agent."""
        rows = await self._redis.xrevrange(keys.EVENTS, count=1)
        return str(rows[0][0]) if rows else "0-0"

    @_translated
    async def changes(self, after: str) -> tuple[str, set[str] | None]:
        """Wait for something to happen behind an entry, for at most `BLOCK_SECONDS`.

        Returns the last entry, and the ids of the sessions concerned; None when nothing happened.
        """
        rows = await self._blocking.xread({keys.EVENTS: after}, count=1000, block=int(BLOCK_SECONDS * 1000))
        if not rows:
            return after, None
        entries = [entry for batch in rows[keys.EVENTS] for entry in batch]
        return entries[-1][0], {fields["session"] for _, fields in entries if "session" in fields}

    @_translated
    async def happenings(self, after: str, limit: int) -> list[tuple[str, dict[str, str]]]:
        """Return the newest state changes of all sessions and agents after an entry of the stream, oldest first."""
        rows = await self._redis.xrevrange(keys.EVENTS, "+", f"({after}" if after else "-", count=limit)
        return [(str(entry), dict(fields)) for entry, fields in reversed(rows)]

    @_translated
    async def forget_session(self, session_id: str) -> None:
        """Take a session whose record is gone out of every list of live ones."""
        async with self._redis.pipeline(transaction=True) as pipe:
            for name in (keys.SESSION_STARTING, keys.SESSION_READY, keys.SESSION_ACTIVE):
                pipe.srem(name, session_id)
            for name in (keys.SESSION_QUEUED, keys.SESSION_UNBOUND):
                pipe.zrem(name, session_id)
            await pipe.execute()

    @_translated
    async def live_session_ids(self) -> set[str]:
        """Return the ids of all sessions that are not over."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.sunion([keys.SESSION_STARTING, keys.SESSION_READY, keys.SESSION_ACTIVE])
            pipe.zrange(keys.SESSION_QUEUED, 0, -1)
            bound, queued = await pipe.execute()
        return set(bound) | set(queued)

    @_translated
    async def counts(self) -> dict[str, int]:
        """Return how many sessions and pool agents are in each state, and the pool's target."""
        async with self._redis.pipeline(transaction=True) as pipe:
            for name in (keys.POOL_READY, keys.POOL_STARTING):
                pipe.scard(name)
            for name in (keys.SESSION_STARTING, keys.SESSION_READY, keys.SESSION_ACTIVE, keys.AGENTS):
                pipe.scard(name)
            pipe.get(keys.POOL_TARGET)
            pipe.zcard(keys.SESSION_QUEUED)
            pipe.scard(keys.POOL_STALE)
            pipe.llen(keys.CELERY_QUEUE)
            pool, booting, starting, ready, active, agents, target, queued, stale, celery = await pipe.execute()
        return {
            "pool": pool, "booting": booting, "queued": queued, "starting": starting, "ready": ready,
            "active": active, "agents": agents, "target": int(target or 0), "stale": stale, "celery": celery,
        }  # fmt: skip

    # Pool

    async def reserve(self, candidates: Sequence[str], *, refused: str = "") -> list[str]:
        """Announce as many of the candidate agents as the pool lacks; returns the announced ids.

        `refused`: why no agent can be started on this node; none is announced then.
        """
        return list(await self._scripts.call("pool_reserve", args=[refused, *candidates]))

    async def surplus(self) -> list[str]:
        """Take the warm agents beyond the target out of the pool; returns their ids, to be stopped."""
        return list(await self._scripts.call("pool_surplus"))

    @_translated
    async def set_target(self, target: int) -> None:
        """Set the number of warm agents to keep."""
        await self._redis.set(keys.POOL_TARGET, target)

    async def mark_stale(self, agent_ids: Sequence[str]) -> int:
        """Have the warm and booting ones among these agents replaced one by one; returns how many."""
        return int(await self._scripts.call("pool_stale", args=agent_ids))

    async def memory(self, shortage: str, *, hold_seconds: int) -> int:
        """Say what is short of memory, '' for nothing, and serve the waiting line where there is room; returns who is
        left in it."""
        return int(await self._scripts.call("pool_promote", args=[shortage, hold_seconds]))

    @_translated
    async def memory_shortage(self) -> str | None:
        """Return why no agent is started for lack of memory; None when there is enough."""
        shortage: str | None = await self._redis.get(keys.MEMORY_LOW)
        return shortage

    @_translated
    async def wait_wake(self) -> bool:
        """Wait for the pool to need a refill, for at most `BLOCK_SECONDS`; False when it did not."""
        return await self._blocking.blpop([keys.POOL_WAKE], timeout=BLOCK_SECONDS) is not None

    @_translated
    async def breaker(self) -> Breaker:
        """Return how boots go."""
        fields = await self._redis.hgetall(keys.BREAKER)
        if not fields.get("failures"):
            return Breaker("closed")
        failures, left = int(fields["failures"]), int(fields.get("nextAt", 0)) / 1000 - await self.now()
        state = "closed"
        if "openedAt" in fields:
            state = "open" if left > 0 and not await self._redis.scard(keys.POOL_STARTING) else "half-open"
        return Breaker(state, failures, fields.get("cause"), max(0.0, left))

    @_translated
    async def close_breaker(self) -> None:
        """Close the breaker by hand: boots are tried at once again."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(keys.BREAKER, keys.BOOT_ERROR)
            pipe.lpush(keys.POOL_WAKE, "1")
            await pipe.execute()

    @_translated
    async def arrivals(self, seconds: int = 60) -> float:
        """Return the starts per second over about the last `seconds`."""
        last = int(await self.now()) // 10
        counts = await self._redis.mget([keys.arrivals(last - back) for back in range(1, seconds // 10 + 1)])
        return sum(int(count or 0) for count in counts) / (seconds // 10 * 10)

    @_translated
    async def set_sizing(self, target: int, why: str) -> None:
        """Set the target that POOL_AUTO chose, and why."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(keys.POOL_TARGET, target)
            pipe.hdel(keys.POOL_STATS, "configured_target")  # what is set counts again when this is switched off
            pipe.hset(keys.POOL_SIZING, mapping={"target": target, "why": why})
            pipe.expire(keys.POOL_SIZING, 60)
            await pipe.execute()

    @_translated
    async def sizing(self) -> str | None:
        """Return why the target is what POOL_AUTO chose; None when it did not choose."""
        why: str | None = await self._redis.hget(keys.POOL_SIZING, "why")
        return why

    @_translated
    async def livekit_trouble(self) -> str | None:
        """Return why LiveKit does not answer; None when it does."""
        trouble: str | None = await self._redis.get(keys.LIVEKIT_DOWN)
        return trouble

    @_translated
    async def livekit_down(self, trouble: str | None, hold_seconds: int = 15) -> None:
        """Say that LiveKit does not answer, and why; or that it does."""
        if trouble:
            await self._redis.set(keys.LIVEKIT_DOWN, trouble, ex=hold_seconds)
        else:
            await self._redis.delete(keys.LIVEKIT_DOWN)

    @_translated
    async def pool_stats(self) -> dict[str, str]:
        """Return the counters of `pool:stats`."""
        return dict(await self._redis.hgetall(keys.POOL_STATS))

    @_translated
    async def boot_error(self) -> str | None:
        """Return why the last boot failed, within the last 5 minutes; None when the last one worked."""
        cause: str | None = await self._redis.get(keys.BOOT_ERROR)
        return cause

    @_translated
    async def means(self) -> tuple[float | None, float | None]:
        """Return the mean seconds of about the last ten boots and of the last ten sessions; None before the first."""
        found = await self._redis.hmget(keys.POOL_STATS, "boot_ms_mean", "session_ms_mean")
        boot, session = (float(value) / 1000 if value else None for value in found)
        return boot, session

    # What is measured

    def observe(self, series: str, seconds: float) -> None:
        """Count a duration that this process has measured, soon; `series` is one of `histograms.BOUNDS`."""
        self._samples.add(series, seconds)

    @_translated
    async def recent(self, name: str) -> list[tuple[float, float]]:
        """Return the newest samples of a histogram (`start`, `boot`, `join`, `first_audio`, `takeover`), oldest first,
        each as (unix time, seconds); about the last 500 are kept."""
        rows = (row.split() for row in await self._redis.lrange(keys.recent(name), 0, -1))
        return [(int(at) / 1000, float(ms) / 1000) for ms, at in rows][::-1]

    @_translated
    async def reading(self) -> Reading:
        """Return everything that is measured."""
        return await reading.take(self._redis)

    # What the operator's webhook is told

    async def look_at_alerts(self) -> list[str]:
        """Tell what has begun or is over; returns the names of what is wrong."""
        return list(await self._scripts.call("alerts_look"))

    @_translated
    async def alert(self, alert_id: str) -> dict[str, Any] | None:
        """Return what is to be told: `type`, `at` in milliseconds, `data`; None when that is too old."""
        found = await self._redis.get(keys.alert(alert_id))
        return dict(json.loads(found)) if found else None

    @_translated
    async def alert_queued(self, alert_id: str) -> None:
        """Say that the delivery of an alert is queued."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrem(keys.DEADLINES, f"alert|{alert_id}")
            pipe.delete(keys.alert(alert_id))
            await pipe.execute()

    # Agents

    async def announce_replacement(self, session_id: str, agent_id: str) -> str:
        """Announce one more agent for a waiting session: announced, over (it waits no more) or open (the breaker)."""
        return str(await self._scripts.call("agent_announce", args=[session_id, agent_id]))

    async def claim(self, agent_id: str, node: str) -> str:
        """Claim an announced agent for a node: claimed, taken (by an earlier delivery) or gone."""
        return str(await self._scripts.call("agent_claim", keys=[keys.agent(agent_id)], args=[agent_id, node]))

    async def spawned(self, agent_id: str, pid: int, start_ticks: int, boot_id: str, node: str) -> bool:
        """Record an agent's process; False when the agent has no record."""
        names = [keys.agent(agent_id), keys.agent_pid(agent_id)]
        return bool(
            await self._scripts.call("agent_spawned", keys=names, args=[pid, start_ticks, boot_id, node, agent_id])
        )

    @_translated
    async def wait_boot(self, agent_id: str, seconds: float) -> str | None:
        """Wait until a boot is decided: `ready`, the cause of its failure, or None at the deadline."""
        deadline, decided = time.monotonic() + seconds, keys.agent_boot(agent_id)
        while (left := deadline - time.monotonic()) > 0:
            # Onto itself: a task that is delivered twice waits twice, and both are to be told.
            outcome = await self._blocking.blmove(decided, decided, min(left, BLOCK_SECONDS), "LEFT", "RIGHT")
            if outcome:
                return str(outcome)
        return None

    async def exited(
        self,
        agent_id: str,
        cause: str,
        exit_code: int | None = None,
        signal: int | None = None,
        peak_memory_kib: int | None = None,
    ) -> Exit:
        """Record that an agent's process is gone; its session is given another agent or ended. Idempotent."""
        seen = ("" if value is None else value for value in (exit_code, signal, peak_memory_kib))
        session_id, outcome, before = await self._scripts.call("agent_exited", args=[agent_id, cause, *seen])
        return Exit(session_id or None, outcome, before)

    async def unfit(self, agent_id: str, reason: str) -> str:
        """Take one agent out of service; returns its state before, '' when it is already leaving or gone."""
        return str(await self._scripts.call("agent_stop", keys=[keys.agent(agent_id)], args=[agent_id, reason]))

    @_translated
    async def agent(self, agent_id: str) -> Agent | None:
        """Return one agent, None when it is unknown."""
        fields = await self._redis.hgetall(keys.agent(agent_id))
        return Agent.from_hash(agent_id, fields) if fields.get("state") else None

    @_translated
    async def agents(self) -> list[Agent]:
        """Return all agents that have not exited."""
        return await self.agent_records(sorted(await self._redis.smembers(keys.AGENTS)))

    @_translated
    async def agent_records(self, ids: Sequence[str]) -> list[Agent]:
        """Return these agents, those that are gone too, as long as their records are kept."""
        hashes = await self._hashes([keys.agent(agent_id) for agent_id in ids])
        return [Agent.from_hash(i, h) for i, h in zip(ids, hashes, strict=True) if h.get("state")]

    @_translated
    async def record_health(self, agent_id: str, fields: Mapping[str, str | int | float]) -> None:
        """Write `agent:{id}:health`."""
        encoded = {name: str(value) for name, value in fields.items()}
        await self._redis.hset(keys.agent_health(agent_id), mapping=encoded)
        await self._redis.expire(keys.agent_health(agent_id), self._keep)

    @_translated
    async def health(self, agent_ids: Sequence[str]) -> list[dict[str, str]]:
        """Return the last health record of each agent, {} where there is none."""
        return await self._hashes([keys.agent_health(agent_id) for agent_id in agent_ids])

    @_translated
    async def append_logs(
        self, agent_id: str, lines: Sequence[str], keep_lines: int, offset: int | None = None
    ) -> None:
        """Append log lines of an agent; the newest `keep_lines` are kept. `offset`: how far its file is shipped."""
        name = keys.agent_logs(agent_id)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.rpush(name, *lines)
            pipe.ltrim(name, -keep_lines, -1)
            pipe.expire(name, self._keep)
            pipe.incrby(keys.agent_log_count(agent_id), len(lines))
            pipe.expire(keys.agent_log_count(agent_id), self._keep)
            if offset is not None:
                pipe.set(keys.agent_log_offset(agent_id), offset, ex=self._keep)
            await pipe.execute()

    @_translated
    async def log_offset(self, agent_id: str) -> int:
        """Return how many bytes of an agent's log file are shipped."""
        return int(await self._redis.get(keys.agent_log_offset(agent_id)) or 0)

    @_translated
    async def logs(self, agent_id: str, limit: int) -> list[str]:
        """Return the newest log lines of an agent, oldest first."""
        return list(await self._redis.lrange(keys.agent_logs(agent_id), -limit, -1))

    async def log_lines(self, agent_id: str, after: int) -> tuple[int, list[str]]:
        """Return how many lines an agent has ever printed, and those after the `after`-th that are kept."""
        names = [keys.agent_logs(agent_id), keys.agent_log_count(agent_id)]
        count, lines = await self._scripts.call("log_lines", names, [after])
        return int(count), list(lines)

    # Nodes

    @_translated
    async def beat_node(self, node: str, fields: Mapping[str, str | int], ttl_seconds: int) -> None:
        """Say that a node lives, for `ttl_seconds`."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.sadd(keys.NODES, node)
            pipe.hset(keys.node(node), mapping={name: str(value) for name, value in fields.items()})
            pipe.expire(keys.node(node), ttl_seconds)
            await pipe.execute()

    @_translated
    async def note_reload(self, reload_id: str, node: str, state: str) -> None:
        """Say how far a node is with a reload; it is kept for an hour."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.reload(reload_id), node, state)
            pipe.expire(keys.reload(reload_id), RELOAD_KEEP_SECONDS)
            await pipe.execute()

    @_translated
    async def reload(self, reload_id: str) -> dict[str, str]:
        """Return how far each node is with a reload; none when it is unknown."""
        states: dict[str, str] = await self._redis.hgetall(keys.reload(reload_id))
        return states

    @_translated
    async def forget_node(self, node: str) -> None:
        """Say that a node is gone."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.srem(keys.NODES, node)
            pipe.delete(keys.node(node))
            pipe.srem(keys.NODES_DRAINING, node)
            pipe.zrem(keys.DEADLINES, f"drain|{node}")
            await pipe.execute()

    async def drain_node(self, node: str, seconds: float) -> tuple[int, int]:
        """Take a node out of service; its calls are over after `seconds`. Returns what `node_left` does."""
        sessions, agents = await self._scripts.call("node_drain", args=[node, int(seconds * 1000)])
        return int(sessions), int(agents)

    async def node_left(self, node: str) -> tuple[int, int]:
        """Return how many sessions a node serves, or has served and not closed the room of, and its living agents."""
        sessions, agents = await self._scripts.call("node_left", args=[node])
        return int(sessions), int(agents)

    @_translated
    async def undrain_node(self, node: str) -> None:
        """Put a node in service again."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.srem(keys.NODES_DRAINING, node)
            pipe.zrem(keys.DEADLINES, f"drain|{node}")
            await pipe.execute()

    @_translated
    async def draining(self) -> set[str]:
        """Return the nodes that take no more sessions."""
        return set(await self._redis.smembers(keys.NODES_DRAINING))

    @_translated
    async def nodes(self) -> dict[str, dict[str, str]]:
        """Return the nodes that live, by id."""
        ids = sorted(await self._redis.smembers(keys.NODES))
        hashes = await self._hashes([keys.node(node) for node in ids])
        return {node: fields for node, fields in zip(ids, hashes, strict=True) if fields}

    # Doors

    @_translated
    async def record_door(self, door: str, fields: Mapping[str, str | int], ttl_seconds: int) -> None:
        """Say how an api process's registration with LiveKit stands, for `ttl_seconds`."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.sadd(keys.DOORS, door)
            pipe.hset(keys.door(door), mapping={name: str(value) for name, value in fields.items()})
            pipe.expire(keys.door(door), ttl_seconds)
            await pipe.execute()

    @_translated
    async def forget_door(self, door: str) -> None:
        """Say that an api process has closed its door."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.srem(keys.DOORS, door)
            pipe.delete(keys.door(door))
            await pipe.execute()

    @_translated
    async def doors(self) -> dict[str, dict[str, str]]:
        """Return the doors of all living api processes, by id; those of the dead are forgotten."""
        ids = sorted(await self._redis.smembers(keys.DOORS))
        hashes = await self._hashes([keys.door(door) for door in ids])
        if gone := [door for door, fields in zip(ids, hashes, strict=True) if not fields]:
            await self._redis.srem(keys.DOORS, *gone)
        return {door: fields for door, fields in zip(ids, hashes, strict=True) if fields}

    # Beat

    @_translated
    async def beat_ticks(self) -> dict[str, float]:
        """Return when beat last turned (`beat`), and when it last sent each periodic task, in Unix seconds."""
        ticks = await self._redis.hgetall(keys.BEAT_TICKS)
        return {name: float(at) for name, at in ticks.items()}

    # Upkeep

    @_translated
    async def trim(self) -> int:
        """Drop the ids of sessions whose record has expired from the list of sessions; returns how many."""
        oldest = (await self.now()) - self._keep
        return int(await self._redis.zremrangebyscore(keys.SESSIONS, "-inf", oldest * 1000 - 3_600_000))

    @_translated
    async def snapshot(self) -> Snapshot:
        """Return all records and lists of sessions and agents, found by their keys and not by what lists name.

        It is read in many steps: what moves meanwhile may be seen half before and half after.
        """
        ids: dict[str, list[str]] = {"session": [], "agent": []}
        private = set()
        async for key in self._redis.scan_iter(count=1000):
            kind, _, rest = key.partition(":")
            found, _, part = rest.partition(":")
            if kind in ids and re.match(ID_PATTERN, found):
                if not part:
                    ids[kind].append(found)
                elif part in {"payload", "conversation"}:
                    private.add((found, part))
        async with self._redis.pipeline(transaction=True) as pipe:
            for name in _SETS:
                pipe.smembers(name)
            for name in (keys.SESSION_QUEUED, keys.SESSION_UNBOUND, keys.DEADLINES):
                pipe.zrange(name, 0, -1)
            pipe.hgetall(keys.POLICY)
            *sets, queued, unbound, deadlines, policy = await pipe.execute()
        lists = dict(zip(_SETS, sets, strict=True)) | {keys.SESSION_QUEUED: queued, keys.SESSION_UNBOUND: unbound}
        broken: set[str] = set()
        sessions = await self._records(Session.from_hash, ids["session"], keys.session, broken)
        agents = await self._records(Agent.from_hash, ids["agent"], keys.agent, broken)
        live = [session for session in sessions.values() if session.live]
        async with self._redis.pipeline(transaction=False) as pipe:
            for session in live:
                pipe.sismember(keys.user_sessions(session.user_id), session.id)
                pipe.get(keys.room(session.room_name))
            found = await pipe.execute()
        return Snapshot(
            now=await self.now(),
            policy={name: int(value) for name, value in policy.items()},
            sessions=sessions,
            agents=agents,
            lists={name: frozenset(members) for name, members in lists.items()},
            deadlines=frozenset((kind, found) for kind, _, found in (member.partition("|") for member in deadlines)),
            broken=frozenset(broken),
            private=frozenset(private),
            counted=frozenset(session.id for session, yes in zip(live, found[::2], strict=True) if yes),
            rooms={session.room_name: there for session, there in zip(live, found[1::2], strict=True)},
        )

    async def _records(
        self,
        build: Callable[[str, Mapping[str, str]], M],
        ids: Sequence[str],
        key: Callable[[str], str],
        broken: set[str],
    ) -> dict[str, M]:
        found = {}
        for start in range(0, len(ids), 1000):  # thousands are kept: Redis is not to be held up by one read
            some = ids[start : start + 1000]
            for each, fields in zip(some, await self._hashes([key(each) for each in some]), strict=True):
                try:
                    if fields:
                        found[each] = build(each, fields)
                except (KeyError, ValueError):
                    broken.add(key(each))
        return found

    @_translated
    async def now(self) -> float:
        """Return Unix seconds by Redis's clock."""
        seconds, microseconds = await self._redis.time()
        return int(seconds) + int(microseconds) / 1e6

    async def _hashes(self, names: Sequence[str]) -> list[dict[str, Any]]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(name)
            return list(await pipe.execute())
