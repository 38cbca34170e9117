"""Nodes, their drains and reloads, and their api processes' registrations with LiveKit."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from orchestrator.store import keys
from orchestrator.store.base import Base, translated
from orchestrator.store.records import Node

#: Seconds for which one may ask how a reload went.
RELOAD_KEEP_SECONDS = 3600


class BeatAnswer(NamedTuple):
    """What a node learns from the store when it reports that it lives."""

    previous_life: str | None  #: the `life` of the record before
    draining: bool  #: whether the node drains
    configured: bool  #: whether a node has set the store up, and Redis still knows


class Nodes(Base):
    """The store of nodes."""

    @translated
    async def beat_node(self, node: str, fields: Mapping[str, str | int], ttl_seconds: int) -> BeatAnswer:
        """Record that a node lives, for `ttl_seconds`."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hget(keys.node(node), "life")
            pipe.sismember(keys.NODES_DRAINING, node)
            pipe.exists(keys.POLICY, keys.POOL_TARGET)
            _queue_beat(pipe, keys.NODES, node, keys.node(node), fields, ttl_seconds=ttl_seconds)
            life, draining, configured, *_ = await pipe.execute()
        return BeatAnswer(life, bool(draining), configured == 2)

    @translated
    async def note_reload(self, reload_id: str, node: str, state: str) -> None:
        """Say how far a node is with a reload; it is kept for an hour."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.reload(reload_id), node, state)
            pipe.expire(keys.reload(reload_id), RELOAD_KEEP_SECONDS)
            await pipe.execute()

    @translated
    async def reload(self, reload_id: str) -> dict[str, str]:
        """Return how far each node is with a reload; none when it is unknown."""
        states: dict[str, str] = await self._redis.hgetall(keys.reload(reload_id))
        return states

    async def forget_node(self, node: str, *, for_good: bool, if_silent: bool = False) -> bool:
        """Say that a node is gone; returns whether it is forgotten.

        Args:
            for_good: and its queue; a Celery worker that only restarts goes on with that.
            if_silent: only when it still says nothing of itself.
        """
        queue = keys.node_queue(node)
        names = [queue, keys.bindings(queue)]
        return bool(await self._scripts.call("forget_node", names, [node, int(for_good), int(if_silent)]))

    @translated
    async def vanished(self) -> set[str]:
        """Return the nodes that have stopped reporting."""
        ids = sorted(await self._redis.smembers(keys.NODES))
        records = await self._replies([("exists", keys.node(each)) for each in ids])
        return {each for each, kept in zip(ids, records, strict=True) if not kept}

    async def recount_nodes(self) -> int:
        """Bring the lists of each node's warm and busy agents into line with the agents; returns how much was wrong."""
        return int(await self._scripts.call("recount_nodes"))

    async def drain_node(self, node: str, seconds: float) -> None:
        """Take a node out of service; its calls are over after `seconds`."""
        await self._scripts.call("drain_node", args=[node, int(seconds * 1000)])

    async def undrain_node(self, node: str) -> list[str]:
        """Put a node in service again. Returns the sessions whose goodbye is cancelled."""
        return list(await self._scripts.call("undrain_node", args=[node]))

    @translated
    async def nodes(self) -> dict[str, Node]:
        """Return the nodes that live, by id, as their heartbeats describe them. A reading has what runs on them too."""
        ids = sorted(await self._redis.smembers(keys.NODES))
        hashes = await self._hashes([keys.node(each) for each in ids])
        return {each: Node.from_hash(each, fields) for each, fields in zip(ids, hashes, strict=True) if fields}

    @translated
    async def record_registration(
        self, registration_id: str, fields: Mapping[str, str | int], ttl_seconds: int
    ) -> None:
        """Record an api process's registration with LiveKit, for `ttl_seconds`."""
        key = keys.registration(registration_id)
        async with self._redis.pipeline(transaction=True) as pipe:
            _queue_beat(pipe, keys.REGISTRATIONS, registration_id, key, fields, ttl_seconds=ttl_seconds)
            await pipe.execute()

    @translated
    async def forget_registration(self, registration_id: str) -> None:
        """Remove the registration of an api process that stops."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.srem(keys.REGISTRATIONS, registration_id)
            pipe.delete(keys.registration(registration_id))
            await pipe.execute()


def _queue_beat(
    pipe: Any, group: str, member: str, key: str, fields: Mapping[str, str | int], *, ttl_seconds: int
) -> None:
    """Add a heartbeat to a pipeline: an id is in a set, and its record expires without the next heartbeat."""
    pipe.sadd(group, member)
    pipe.hset(key, mapping={name: str(value) for name, value in fields.items()})
    pipe.expire(key, ttl_seconds)
