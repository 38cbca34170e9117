"""Looking at everything at once, and dropping what has expired."""

import contextlib
import json
import re

from redis.exceptions import ResponseError

from orchestrator.errors import SchemaMismatch
from orchestrator.models import ID_PATTERN, Agent, Session
from orchestrator.store import keys, schema
from orchestrator.store.base import Base, translated
from orchestrator.store.records import Snapshot

_SETS = (
    keys.SESSION_STARTING, keys.SESSION_READY, keys.SESSION_ACTIVE, keys.AGENTS, keys.POOL_READY, keys.POOL_STARTING,
    keys.POOL_STALE, keys.NODES_DRAINING,
)  # fmt: skip


class Upkeep(Base):
    """The store as a whole."""

    @translated
    async def agree(self) -> None:
        """Say which schema this release writes. Raises `SchemaMismatch` when it cannot share this Redis."""
        found: dict[str, str] = await self._redis.hgetall(keys.SCHEMA)
        if reason := schema.disagreement(found, in_use=bool(await self._redis.exists(keys.POLICY))):
            raise SchemaMismatch(reason)
        if int(found.get("version", 0)) < schema.VERSION:
            written = {"version": str(schema.VERSION), "readableBy": str(schema.READABLE_BY)}
            await self._redis.hset(keys.SCHEMA, mapping=written)

    @translated
    async def check_blocking(self) -> None:
        """Try the client for what waits. Raises as every other method does."""
        await self._blocking.ping()

    @translated
    async def neighbours(self) -> tuple[set[str], set[str]]:
        """Return what is not ours: the names of tasks in our queue, and of Celery workers that are bound to it."""
        tasks = set()
        for text in await self._redis.lrange(keys.CELERY_QUEUE, 0, 99):
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                tasks.add(str(json.loads(text)["headers"].get("task") or "?")[:100])
        bound = await self._redis.smembers(keys.bindings("celery.pidbox"))
        workers = {member.rpartition("\x06\x16")[2].removesuffix(".celery.pidbox") for member in bound}
        return (
            {name for name in tasks if not name.startswith("orchestrator.")},
            {name for name in workers if not name.startswith("node@")},
        )

    @translated
    async def trim(self) -> int:
        """Drop the ids of sessions whose record has expired from the list of sessions; returns how many."""
        oldest = ((await self.now()) - self._keep) * 1000 - 3_600_000
        for name in (keys.SESSION_OVER, keys.AGENT_OVER):
            await self._redis.zremrangebyscore(name, "-inf", oldest)
        return int(await self._redis.zremrangebyscore(keys.SESSIONS, "-inf", oldest))

    @translated
    async def rewrite_log(self, seconds: float) -> bool:
        """Have Redis write its append-only file anew, without what is deleted, when `seconds` have passed since a node
        did so last. Returns whether it does."""
        if not await self._redis.set(keys.REWRITTEN, "1", nx=True, ex=max(1, int(seconds))):
            return False
        try:
            await self._redis.bgrewriteaof()
        except ResponseError:  # one runs already, or may not begin now
            await self._redis.delete(keys.REWRITTEN)
            raise
        return True

    @translated
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
            pipe.smembers(keys.NODES)
            *sets, queued, unbound, deadlines, policy, nodes = await pipe.execute()
        by_node = [name(node) for node in sorted(nodes) for name in (keys.node_warm, keys.node_busy)]
        async with self._redis.pipeline(transaction=True) as pipe:
            for name in by_node:
                pipe.smembers(name)
            sets += await pipe.execute()
        lists = dict(zip((*_SETS, *by_node), sets, strict=True))
        lists |= {keys.SESSION_QUEUED: queued, keys.SESSION_UNBOUND: unbound}
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
            policy={name: float(value) for name, value in policy.items()},
            nodes=frozenset(nodes),
            sessions=sessions,
            agents=agents,
            lists={name: frozenset(members) for name, members in lists.items()},
            deadlines=frozenset((kind, found) for kind, _, found in (member.partition("|") for member in deadlines)),
            broken=frozenset(broken),
            private=frozenset(private),
            counted=frozenset(session.id for session, yes in zip(live, found[::2], strict=True) if yes),
            rooms={session.room_name: there for session, there in zip(live, found[1::2], strict=True)},
        )
