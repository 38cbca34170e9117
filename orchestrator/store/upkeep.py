"""The store as a whole: its schema, other programs in it, expired ids, and a snapshot of all records."""

import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping

from redis.exceptions import ResponseError

from orchestrator.errors import SchemaMismatch
from orchestrator.models import ID_PATTERN, Agent, Session
from orchestrator.states import AgentState
from orchestrator.store import keys, schema
from orchestrator.store.base import Base, translated
from orchestrator.store.reading import PRIVATE, Snapshot, take

#: What PTTL answers for a key that does not expire.
_NEVER = -1


class Upkeep(Base):
    """The store as a whole."""

    @translated
    async def check_schema(self) -> None:
        """Record which schema this release writes. Raises `SchemaMismatch` when it cannot share this Redis."""
        recorded: dict[str, str] = await self._redis.hgetall(keys.SCHEMA)
        if reason := schema.disagreement(recorded):
            raise SchemaMismatch(reason)
        if int(recorded.get("version", 0)) < schema.VERSION:
            written = {"version": str(schema.VERSION), "readableBy": str(schema.READABLE_BY)}
            await self._redis.hset(keys.SCHEMA, mapping=written)

    @translated
    async def check_blocking(self) -> None:
        """Try the client for blocking commands. Raises as every other method does."""
        await self._blocking.ping()

    @translated
    async def neighbours(self) -> tuple[set[str], set[str]]:
        """Return the names of foreign tasks in our queue, and of foreign Celery workers that are bound to it."""
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
        """Drop the ids whose records have expired from the lists; returns how many sessions were dropped."""
        api_processes = sorted(await self._redis.smembers(keys.REGISTRATIONS))
        records = await self._hashes([keys.registration(each) for each in api_processes])
        if gone := [each for each, fields in zip(api_processes, records, strict=True) if not fields]:
            await self._redis.srem(keys.REGISTRATIONS, *gone)
        oldest = ((await self.now()) - self._keep) * 1000 - 3_600_000
        lists = (keys.SESSION_OVER, keys.AGENT_OVER, keys.SESSIONS)
        *_, sessions = await self._replies([("zremrangebyscore", name, "-inf", str(oldest)) for name in lists])
        return int(sessions)

    @translated
    async def rewrite_log(self, seconds: float) -> bool:
        """Have Redis rewrite its append-only file, without deleted data, when the last rewrite by a node was `seconds`
        ago. Returns whether it does."""
        if not await self._redis.set(keys.REWRITTEN, "1", nx=True, ex=max(1, int(seconds))):
            return False
        try:
            # guard: forget-on-disk
            await self._redis.bgrewriteaof()
        except ResponseError:  # a rewrite is running, or may not begin now
            await self._redis.delete(keys.REWRITTEN)
            raise
        return True

    @translated
    async def snapshot(self) -> Snapshot:
        """Return a reading, and all records of sessions and agents, found by their keys and not by what lists name.

        It takes many round trips: a change meanwhile may be seen in one place and not in another.
        """
        ids: dict[str, list[str]] = {"session": [], "agent": []}
        parts: dict[str, set[str]] = defaultdict(set)  # by the key of the record: what else is kept of it
        users = []
        async for key in self._redis.scan_iter(count=1000):
            kind, _, rest = key.partition(":")
            name, _, part = rest.partition(":")
            if kind in ids and re.match(ID_PATTERN, name):
                if part:
                    parts[f"{kind}:{name}"].add(part)
                else:
                    ids[kind].append(name)
            elif key.startswith(keys.user("")):
                users.append(key.removeprefix(keys.user("")))
        reading = await take(self._redis, self._scripts)
        broken: set[str] = set()
        sessions = await self._records(Session.from_hash, ids["session"], keys.session, broken)
        agents = await self._records(Agent.from_hash, ids["agent"], keys.agent, broken)
        live = [session for session in sessions.values() if session.live]
        replies = await self._replies(
            [
                *(("sismember", keys.user_sessions(each.user_id), each.id) for each in live),
                *(("get", keys.room(session.room_name)) for session in live),
                *(("get", keys.user(user)) for user in users),
            ]
        )
        counted, rooms, newest = replies[: len(live)], replies[len(live) : 2 * len(live)], replies[2 * len(live) :]
        return Snapshot(
            reading=reading,
            sessions=sessions,
            agents=agents,
            broken=frozenset(broken),
            private=frozenset(
                (record.partition(":")[2], part)
                for record, found in parts.items()
                if record.startswith("session:")
                for part in found & PRIVATE
            ),
            counted=frozenset(session.id for session, member in zip(live, counted, strict=True) if member),
            rooms={session.room_name: newest for session, newest in zip(live, rooms, strict=True)},
            users={user: session_id for user, session_id in zip(users, newest, strict=True) if session_id},
            lasting=await self._lasting(sessions, agents, parts),
        )

    async def _lasting(
        self, sessions: Mapping[str, Session], agents: Mapping[str, Agent], parts: Mapping[str, set[str]]
    ) -> dict[str, str]:
        """Return the keys that never expire although the session has ended or the agent has exited."""
        ended = [session for session in sessions.values() if not session.live]
        over = [keys.session(session.id) for session in ended]
        over += [keys.agent(agent.id) for agent in agents.values() if agent.state is AgentState.EXITED]
        owners = {record: record for record in over}
        owners |= {f"{record}:{part}": record for record in over for part in parts.get(record, ())}
        rooms = await self._replies([("get", keys.room(session.room_name)) for session in ended])
        for session, newest in zip(ended, rooms, strict=True):
            if newest == session.id:
                owners[keys.room(session.room_name)] = keys.session(session.id)
        left = await self._replies([("pttl", key) for key in owners])
        return {key: owner for (key, owner), ms in zip(owners.items(), left, strict=True) if ms == _NEVER}
