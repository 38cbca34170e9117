"""The base of every part of the store: the connections, the scripts, Redis's clock."""

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from redis.exceptions import RedisError

from orchestrator.config.redis_url import Address
from orchestrator.models import Agent, Session
from orchestrator.store import keys
from orchestrator.store.connection import connect, connect_blocking
from orchestrator.store.loader import Scripts
from orchestrator.store.refusals import translate
from orchestrator.store.samples import Samples

P = ParamSpec("P")
R = TypeVar("R")
B = TypeVar("B", bound="Base")
M = TypeVar("M", Session, Agent)


def translated(
    method: Callable[Concatenate[B, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[B, P], Coroutine[Any, Any, R]]:
    """Raise our own errors where redis-py raises its."""

    @wraps(method)
    async def wrapper(self: B, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await method(self, *args, **kwargs)
        except RedisError as failure:
            raise translate(failure) from failure

    return wrapper


class Base:
    """One client of Redis, which every part of the store shares."""

    def __init__(self, redis: Address | str, *, name: str, keep_seconds: float, patience: float = 2.0) -> None:
        # redis-py types every reply as bytes or str, whatever decode_responses says.
        self._redis: Any = connect(redis, name=name, patience=patience)
        self._blocking: Any = connect_blocking(redis, name=f"{name}.blocking")
        self._scripts = Scripts(self._redis, getattr(self._redis, "prefix", ""))
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

    @translated
    async def ping(self) -> float:
        """Return the round trip to Redis, in seconds."""
        started = time.perf_counter()
        await self._redis.time()  # not PING, which is refused when writes are
        return time.perf_counter() - started

    @translated
    async def take_write(self) -> None:
        """Raise `StoreUnavailable` when Redis answers, and takes no writes: read-only, full, failing over."""
        await self._redis.set(keys.PROBE, 1, ex=60)

    @translated
    async def now(self) -> float:
        """Return Unix seconds by Redis's clock."""
        seconds, microseconds = await self._redis.time()
        return int(seconds) + int(microseconds) / 1e6

    async def _replies(self, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        """Return the replies to many commands, sent a thousand at a time so that one read does not hold up Redis."""
        replies: list[Any] = []
        for start in range(0, len(commands), 1000):
            async with self._redis.pipeline(transaction=False) as pipe:
                for name, *arguments in commands[start : start + 1000]:
                    getattr(pipe, name)(*arguments)
                replies += await pipe.execute()
        return replies

    async def _hashes(self, names: Sequence[str]) -> list[dict[str, Any]]:
        return await self._replies([("hgetall", name) for name in names])

    async def _records(
        self,
        build: Callable[[str, Mapping[str, str]], M],
        ids: Sequence[str],
        key: Callable[[str], str],
        broken: set[str],
    ) -> dict[str, M]:
        records = {}
        for each, fields in zip(ids, await self._hashes([key(each) for each in ids]), strict=True):
            try:
                if fields:
                    records[each] = build(each, fields)
            except (KeyError, ValueError):
                broken.add(key(each))
        return records
