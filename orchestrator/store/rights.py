"""What Redis must let its user do, tested without changing anything: `orchestrator up` names each missing right.

Each command is queued in a transaction that is thrown away: there Redis looks at rights and runs nothing.
"""

import re
import secrets
import ssl
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orchestrator.config.redis_url import Address
from orchestrator.errors import StoreUnavailable
from orchestrator.reasons import HealthWarning, warn
from orchestrator.store import keys
from orchestrator.store.connection import connect_sync

#: Every command that the store, its scripts, kombu, Celery's results and redbeat use. K is a key.
COMMANDS = """
BLMOVE K K LEFT RIGHT 1|BLPOP K 1|BRPOP K 1|DEL K|EVAL x 1 K|EVALSHA x 1 K|EXISTS K|EXPIRE K 1|GET K|HDEL K f|HGET K f
HGETALL K|HINCRBY K f 1|HLEN K|HMGET K f|HSET K f v|HSETNX K f v|INCR K|INCRBY K 1|LLEN K|LPUSH K v|LRANGE K 0 0
LTRIM K 0 0|MGET K|PEXPIRE K 1|PING|PTTL K|RPOP K|RPUSH K v|SADD K m|SCAN 0|SCARD K|SCRIPT LOAD x|SET K v|SETEX K 1 v
SETRANGE K 0 v|SINTER K|SISMEMBER K m|SMEMBERS K|SPOP K|SRANDMEMBER K|SREM K m|SUNION K|TIME|XADD K * f v|XRANGE K - +
XREAD STREAMS K 0|XREVRANGE K + -|ZADD K 1 m|ZCARD K|ZRANGE K 0 0|ZRANGEBYSCORE K 0 1|ZRANK K m|ZREM K m
LPOP K|LREM K 1 v|ZREMRANGEBYSCORE K 0 1|ZREVRANGE K 0 0|ZREVRANGEBYSCORE K 1 0|ZSCORE K m
"""
#: One key of each family that there is.
KEYS = (
    *"celery node.x celery:unacked celery:unacked:index celery:unacked:mutex celery:result:x celery:beat:x "
    "_kombu.binding.celery _kombu.binding_deadlines _kombu.binding_permanent.celery x.reply.celery.pidbox "
    "session:x session:user:x session:room:x user:sessions:x user:node:x agent:x node:x alert:x alerts arrivals:0 "
    "outcomes:0 histogram:x recent:x rate:x:0 idempotency:x webhook:x reload:x door:x deadlines:looked pool:refill "
    # guard: key-rights
    "pool:wake:x pool:memory_low address:sessions:x room:asker:x".split(),
    *(value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)),
)
#: Channels that are published to, and what kombu subscribes to as a pattern: rules name that one letter for letter.
_PUBLISHED = ("celery.pidbox", "celeryev/worker.heartbeat", "celeryev/task.received")
_PATTERN = "celery.pidbox"
#: A sufficient ACL rule, shown to the operator.
RULES = "ACL SETUSER {user} on >PASSWORD ~{prefix}* &* +@all -@admin -@dangerous"
_NAMED = 8


def examine(where: Address) -> HealthWarning | None:
    """Return why this Redis cannot be used by a node, and what to do; None when it can.

    Raises:
        StoreUnavailable: it does not answer, or not yet.
    """
    with closing(connect_sync(where, name="up")) as client:
        try:
            client.ping()
            return _rights_warning(where, list(_lacking(client, where)))
        except AuthenticationError as failure:
            return warn("redis_login_refused", address=str(where), detail=str(failure))
        except NoPermissionError as failure:
            return warn("redis_probe_refused", **_user(where), detail=str(failure))
        except (RedisConnectionError, RedisTimeoutError, OSError) as failure:
            if trouble := _tls_trouble(where, failure):
                return trouble
            other = "redis" if where.tls else "rediss"
            hint = "" if where.path else f" (if it speaks {'no ' if where.tls else ''}TLS, write {other}://)"
            raise StoreUnavailable(f"Redis at {where} does not answer: {failure}{hint}", retry_after=2) from failure
        except ResponseError as failure:
            if "DB index" in str(failure):
                return warn("redis_database_missing", address=str(where), database=where.db)
            raise StoreUnavailable(f"Redis at {where} refuses: {failure}", retry_after=2) from failure


def _lacking(client: Redis, where: Address) -> Iterator[str]:
    """Yield a text for each right that is missing."""
    key = f"{where.prefix}{keys.session('probe-' + secrets.token_hex(4))}"
    probes = [[key if word == "K" else word for word in line.split()] for line in re.split(r"[\n|]", COMMANDS.strip())]
    refused = {
        _command(probe): failure for probe, failure in zip(probes, _queued(client, probes), strict=True) if failure
    }
    for name, failure in refused.items():
        if "command" in str(failure):
            yield f"command {name}"
    for wanted in ("WATCH", "PSUBSCRIBE", "SUBSCRIBE"):
        if trouble := _tried(client, wanted, where):
            yield trouble
    if "command" not in str(refused.get("DEL", "")):
        names = [where.prefix + each for each in dict.fromkeys(KEYS)]
        for name, denied in zip(names, _queued(client, [["DEL", name] for name in names]), strict=True):
            if denied:
                yield f"key {name}"
    channels = [f"{where.prefix}/{where.db}.{each}" for each in _PUBLISHED]
    channels.append(f"{where.prefix}celery:result:celery-task-meta-x")
    for name, denied in zip(channels, _queued(client, [["PUBLISH", name, ""] for name in channels]), strict=True):
        if denied:
            yield "command PUBLISH" if "command" in str(denied) else f"channel {name}"


def _command(probe: Sequence[str]) -> str:
    return " ".join(probe[:2]) if probe[0] == "SCRIPT" else probe[0]


def _queued(client: Redis, commands: Sequence[Sequence[str]]) -> list[Exception | None]:
    """Return why each command is refused, None where it is not. None of them is run."""
    connection: Any = client.connection_pool.get_connection()
    refusals: list[Exception | None] = []
    try:
        connection.send_packed_command(connection.pack_commands([["MULTI"], *commands, ["DISCARD"]]))
        for _ in range(len(commands) + 2):
            try:
                connection.read_response()
                refusals.append(None)
            except ResponseError as failure:
                unknown = str(failure).lower().startswith("unknown command")
                refusals.append(failure if unknown or isinstance(failure, NoPermissionError) else None)
    except BaseException:
        connection.disconnect()
        raise
    finally:
        client.connection_pool.release(connection)
    if refusals[0] or refusals[-1]:
        raise refusals[0] or refusals[-1] or RedisError()
    return refusals[1:-1]


def _tried(client: Redis, wanted: str, where: Address) -> str | None:
    """Return why what cannot be queued is refused."""
    channel = f"{where.prefix}/{where.db}.{_PATTERN}"
    pubsub: Any = client.pubsub()  # type: ignore[no-untyped-call]
    pipe: Any = client.pipeline()
    with pipe, pubsub:
        try:
            if wanted == "WATCH":
                pipe.watch(f"{where.prefix}celery:unacked")
            elif wanted == "PSUBSCRIBE":
                pubsub.psubscribe(channel)
                pubsub.parse_response()
            else:
                channel = f"{where.prefix}celery:result:celery-task-meta-x"
                pubsub.subscribe(channel)
                pubsub.parse_response()
        except NoPermissionError as failure:
            if wanted == "WATCH" and "command" not in str(failure):
                return None  # its key is among those that are tried
            return f"command {wanted}" if "command" in str(failure) else f"channel {channel} ({wanted})"
    return None


def _rights_warning(where: Address, lacking: list[str]) -> HealthWarning | None:
    if not lacking:
        return None
    named = list(dict.fromkeys(lacking))
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return warn("redis_rights_missing", **_user(where), rights=f"{', '.join(named[:_NAMED])}{more}")


def _user(where: Address) -> dict[str, str]:
    """Return who lacks rights, and the rights that are enough."""
    rules = RULES.format(user=where.username or "NAME", prefix=where.prefix)
    return {"user": where.username or "default", "address": str(where), "rules": rules}


def _tls_trouble(where: Address, failure: BaseException) -> HealthWarning | None:
    cause: BaseException | None = failure
    while cause and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    text = str(failure)
    if isinstance(cause, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in text:
        why = getattr(cause, "verify_message", "") or text
        return warn("redis_not_trusted", address=str(where), detail=why)
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text.upper().replace(" ", "_"):
        return warn("redis_without_tls", address=str(where))
    return None
