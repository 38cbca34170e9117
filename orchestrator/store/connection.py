"""How this project talks to Redis: one address, bounded in time, bounded in connections, never retried behind our back.

redis-py retries a command whose reply was lost; for an assignment that would take two agents. So no client
here retries; whoever wants a retry asks for it where it is safe.
"""

from typing import Any

import redis as sync
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from orchestrator.config import redis_url
from orchestrator.config.redis_url import Address
from orchestrator.store import moving
from orchestrator.store.prefixed import PrefixedRedis

#: While a pool listens for a hosted Redis's notices of maintenance, redis-py 8 hands out connections whose server is
#: gone: after a restart of Redis each that had been idle would fail one command, minutes later.
# guard: idle-connection
_NO_NOTICES = MaintNotificationsConfig(enabled=False)

#: Longest wait for a blocking read, in seconds; the socket time-out of such a client lies above it.
BLOCK_SECONDS = 4.0


def connect(address: Address | str, *, name: str, max_connections: int = 64, patience: float = 2.0) -> Redis:
    """Return a client for short commands: each fails within twice `patience` seconds, whatever the network does."""
    return _client(
        address,
        name=name,
        max_connections=max_connections,
        timeout=patience,
        # guard: redis-timeout
        socket_timeout=patience,
        socket_connect_timeout=patience,
        health_check_interval=15,
    )


def connect_blocking(address: Address | str, *, name: str, max_connections: int = 64) -> Redis:
    """Return a client for BLPOP and XREAD of up to `BLOCK_SECONDS`."""
    return _client(
        address,
        name=name,
        max_connections=max_connections,
        timeout=BLOCK_SECONDS,
        socket_timeout=BLOCK_SECONDS + 4,
        socket_connect_timeout=2.0,
    )


def _client(address: Address | str, *, name: str, **bounds: Any) -> Redis:
    parsed = redis_url.parse(address) if isinstance(address, str) else address
    kind = moving.Unix if parsed.path else moving.Tls if parsed.tls else moving.Tcp
    pool = BlockingConnectionPool(
        connection_class=kind,
        decode_responses=True,
        protocol=3,
        client_name=name,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=_NO_NOTICES,
        **bounds,
        **_keepalive(parsed),
        **parsed.options(),
    )
    return PrefixedRedis.over(pool, parsed.prefix) if parsed.prefix else Redis.from_pool(pool)


def _keepalive(where: Address) -> dict[str, Any]:
    return {} if where.path else {"socket_keepalive": True}


def sync_connection(where: Address) -> type[sync.Connection]:
    """Return the class of connections of the clients that are not ours and know no asyncio: kombu's and Celery's."""
    kind: type[Any] = moving.SyncUnix if where.path else moving.SyncTcp
    return moving.SyncTls if where.tls else kind


def sync_options(where: Address) -> dict[str, Any]:
    """Return what such connections are made with, their bounds aside."""
    return where.options() | _keepalive(where)


def connect_sync(where: Address, *, name: str) -> "sync.Redis":
    """Return a plain client for what knows no asyncio. Its names are written as they are, without the prefix."""
    pool = sync.ConnectionPool(
        connection_class=sync_connection(where),
        socket_timeout=5,
        socket_connect_timeout=2,
        decode_responses=True,
        client_name=name,
        **sync_options(where),
    )
    return sync.Redis.from_pool(pool)
