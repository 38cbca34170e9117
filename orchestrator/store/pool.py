"""The pool: what the scripts decide by, its target, its breaker, the waiting line's memory."""

from collections.abc import Mapping, Sequence

from orchestrator.store import keys
from orchestrator.store.base import Base, translated
from orchestrator.store.connection import BLOCK_SECONDS
from orchestrator.store.constants import ARRIVAL_BUCKET_SECONDS
from orchestrator.store.records import Action, Breaker


class Pool(Base):
    """The store of the pool."""

    @translated
    async def write_policy(self, policy: Mapping[str, float]) -> None:
        """Write what the scripts decide by. From now on agents that Redis has lost may register."""
        await self._redis.hset(keys.POLICY, mapping={name: f"{value:.15g}" for name, value in policy.items()})

    async def configure(self, policy: Mapping[str, float], pool_target: int) -> None:
        """Set the store up: write the policy, and the pool's target when that is new or was changed; a resize made
        since then stays otherwise. From now on starts are answered."""
        await self.write_policy(policy)
        await self._open(pool_target)

    @translated
    async def _open(self, pool_target: int) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(keys.POOL_PROVEN)
            if await self._redis.hget(keys.POOL_STATS, "configured_target") != str(pool_target):
                pipe.set(keys.POOL_TARGET, pool_target)
                pipe.hset(keys.POOL_STATS, "configured_target", str(pool_target))
            await pipe.execute()

    @translated
    async def configured(self) -> bool:
        """Return whether a node has set the store up, and Redis still knows."""
        return int(await self._redis.exists(keys.POLICY, keys.POOL_TARGET)) == 2

    async def process_deadlines(self, limit: int = 100) -> list[Action]:
        """Act on the deadlines that are over; returns the actions to do outside Redis."""
        return [Action(*row) for row in await self._scripts.call("process_deadlines", args=[limit])]

    async def reserve_agents(self, candidates: Sequence[str], node: str, *, refused: str = "") -> list[str]:
        """Announce the candidate agents that a node is to boot, as many as the pool lacks there; returns their ids.

        `refused`: why no agent can be started on this node; none is announced then.
        """
        return list(await self._scripts.call("reserve_agents", args=[node, refused, *candidates]))

    async def retire_surplus(self) -> list[str]:
        """Take the warm agents beyond the target out of the pool; returns their ids, to be stopped."""
        return list(await self._scripts.call("retire_surplus"))

    @translated
    async def set_target(self, target: int) -> None:
        """Set the number of warm agents to keep."""
        await self._redis.set(keys.POOL_TARGET, target)

    async def mark_stale(self, agent_ids: Sequence[str]) -> int:
        """Have the warm and booting ones among these agents replaced one by one; returns how many."""
        return int(await self._scripts.call("mark_stale", args=agent_ids))

    async def report_memory(self, node: str, shortage: str, *, hold_seconds: int) -> None:
        """Report what is short of memory on a node, '' for nothing."""
        await self._scripts.call("report_memory", args=[node, shortage, hold_seconds])

    async def admit_waiting(self) -> int:
        """Serve the sessions that wait, where there is capacity; returns how many are in the queue."""
        return int(await self._scripts.call("admit_waiting"))

    @translated
    async def wait_wake(self, node: str) -> bool:
        """Wait until this node must check the pool, for at most `BLOCK_SECONDS`; False if there was no request."""
        return await self._blocking.blpop([keys.pool_wake(node)], timeout=BLOCK_SECONDS) is not None

    @translated
    async def breaker(self) -> Breaker:
        """Return how boots go."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.BREAKER)
            pipe.scard(keys.POOL_STARTING)
            pipe.time()
            fields, booting, (seconds, microseconds) = await pipe.execute()
        now = int(seconds) + int(microseconds) / 1e6
        return Breaker.from_hash(fields, now=now, booting=bool(booting))

    async def close_breaker(self) -> None:
        """Close the breaker by hand: boots are tried at once again."""
        await self._scripts.call("close_breaker")

    @translated
    async def arrivals(self, seconds: int = 60) -> float:
        """Return the starts per second over about the last `seconds`."""
        last, buckets = int(await self.now()) // ARRIVAL_BUCKET_SECONDS, seconds // ARRIVAL_BUCKET_SECONDS
        counts = await self._redis.mget([keys.arrivals(last - back) for back in range(1, buckets + 1)])
        return sum(int(count or 0) for count in counts) / (buckets * ARRIVAL_BUCKET_SECONDS)

    @translated
    async def set_sizing(self, target: int, why: str) -> None:
        """Set the target that POOL_AUTO chose, and why."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(keys.POOL_TARGET, target)
            pipe.hdel(keys.POOL_STATS, "configured_target")  # what is set counts again when this is switched off
            pipe.hset(keys.POOL_SIZING, mapping={"target": target, "why": why})
            pipe.expire(keys.POOL_SIZING, 60)
            await pipe.execute()

    @translated
    async def livekit_down(self, trouble: str | None, hold_seconds: int = 15) -> None:
        """Say that LiveKit does not answer, and why; or that it does."""
        if trouble:
            await self._redis.set(keys.LIVEKIT_DOWN, trouble, ex=hold_seconds)
        else:
            await self._redis.delete(keys.LIVEKIT_DOWN)

    @translated
    async def means(self) -> tuple[float | None, float | None]:
        """Return the mean seconds of about the last ten boots and of the last ten sessions; None before the first."""
        means = await self._redis.hmget(keys.POOL_STATS, "boot_ms_mean", "session_ms_mean")
        boot, session = (float(value) / 1000 if value else None for value in means)
        return boot, session
