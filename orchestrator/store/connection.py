"""How the orchestrator talks to Redis: bounded in time, bounded in connections, never retried behind our back.

redis-py retries a command whose reply was lost; for an assignment that would take two agents. So no client
here retries; whoever wants a retry asks for it where it is safe.
"""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

#: While a pool listens for a hosted Redis's notices of maintenance, redis-py 8 hands out connections whose server is
#: gone: after a restart of Redis each that had been idle would fail one command, minutes later.
_NO_NOTICES = MaintNotificationsConfig(enabled=False)

#: Longest wait for a blocking read, in seconds; the socket time-out of such a client lies above it.
BLOCK_SECONDS = 4.0


def connect(url: str, *, name: str, max_connections: int = 64, patience: float = 2.0) -> Redis:
    """Return a client for short commands: each fails within twice `patience` seconds, whatever the network does."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=patience,
        socket_timeout=patience,
        socket_connect_timeout=patience,
        socket_keepalive=True,
        health_check_interval=15,
        decode_responses=True,
        protocol=3,
        client_name=name,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=_NO_NOTICES,
    )
    return Redis.from_pool(pool)


def connect_blocking(url: str, *, name: str, max_connections: int = 64) -> Redis:
    """Return a client for BLPOP and XREAD of up to `BLOCK_SECONDS`."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=BLOCK_SECONDS,
        socket_timeout=BLOCK_SECONDS + 4,
        socket_connect_timeout=2.0,
        socket_keepalive=True,
        decode_responses=True,
        protocol=3,
        client_name=name,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=_NO_NOTICES,
    )
    return Redis.from_pool(pool)
