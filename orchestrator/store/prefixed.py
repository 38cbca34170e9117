"""Clients that put REDIS_PREFIX before every key, and remove it from the replies, so that no other module handles it.

Kombu does the same for Celery's queues. A command that is not in the table is refused: what it does with keys is
unknown, and one key without the prefix may be another program's.
"""

from collections.abc import Callable
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline

#: Commands by where their keys are among the arguments: those of the store and, from here, those of its scripts.
SPANS: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(
        "EXPIRE GET HDEL HGET HGETALL HINCRBY HMGET HSET HSETNX INCR INCRBY LLEN LPOP LPUSH LRANGE LREM LTRIM PTTL "
        "RPUSH SADD SCARD SET SETRANGE SISMEMBER SMEMBERS SPOP SRANDMEMBER SREM XADD XRANGE XREVRANGE ZADD ZCARD "
        "ZRANGE ZRANGEBYSCORE ZRANK ZREM ZREMRANGEBYSCORE ZREVRANGE ZSCORE".split(),
        (0, 1),
    ),
    **dict.fromkeys("DEL EXISTS MGET SINTER SUNION".split(), (0, None)),
    **dict.fromkeys("PING TIME MULTI EXEC WATCH UNWATCH INFO BGREWRITEAOF".split(), (0, 0)),
    "BLPOP": (0, -1),
    "BLMOVE": (0, 2),
}


def prefixed(prefix: str, arguments: tuple[Any, ...]) -> list[Any]:
    """Return a command with its keys prefixed. Raises `ValueError` for one that is not known here."""
    name, *rest = arguments
    if name == "SCAN":
        return [name, rest[0], "MATCH", f"{prefix}*", *rest[1:]]
    first, end = _span(name, rest)
    rest[first:end] = [prefix + key for key in rest[first:end]]
    return [name, *rest]


def _span(name: str, rest: list[Any]) -> tuple[int, int | None]:
    if name in {"EVAL", "EVALSHA"}:
        return 2, 2 + int(rest[1])
    if name == "XREAD":
        first = [str(each) for each in rest].index("b'STREAMS'") + 1
        return first, first + (len(rest) - first) // 2
    if name.startswith(("SCRIPT", "CLIENT")):
        return 0, 0
    try:
        return SPANS[name]
    except KeyError:
        raise ValueError(f"which of the arguments of {name} are keys is not known to REDIS_PREFIX") from None


def _bare(prefix: str, name: str, reply: Any) -> Any:
    """Return a reply without the prefix of the keys in it."""
    if not reply:
        return reply
    cut = len(prefix)
    if name == "BLPOP":
        return [reply[0][cut:], *reply[1:]]
    if name == "SCAN":
        return [reply[0], [key[cut:] for key in reply[1]]]
    if name == "XREAD":
        return {key[cut:]: rows for key, rows in reply.items()}
    return reply


class _Prefixing:
    prefix = ""
    execute_command: Callable[..., Any]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "PrefixedPipeline":
        pipe = PrefixedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)  # type: ignore[attr-defined]
        pipe.prefix = self.prefix
        return pipe


class PrefixedRedis(_Prefixing, Redis):  # type: ignore[misc]
    """redis-py's client."""

    @classmethod
    def over(cls, pool: BlockingConnectionPool, prefix: str) -> "PrefixedRedis":
        """Return a client that owns its pool."""
        client = cast(PrefixedRedis, cls.from_pool(pool))
        client.prefix = prefix
        return client

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command on prefixed keys."""
        reply = await super().execute_command(*prefixed(self.prefix, args), **options)
        return _bare(self.prefix, args[0], reply)


class PrefixedPipeline(_Prefixing, Pipeline):  # type: ignore[misc]
    """redis-py's pipeline. It is asked for nothing whose reply names keys."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Collect one command on prefixed keys."""
        return super().execute_command(*prefixed(self.prefix, args), **options)
