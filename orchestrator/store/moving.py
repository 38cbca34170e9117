"""Connections that go where Redis has gone.

After a failover the old server may live on as a replica: it refuses every write, with its connections open for good,
while its name leads to another one. Who is refused so has met the wrong server, and the next command connects anew.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import redis as sync
from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import RedisError, ResponseError

from orchestrator.store.refusals import is_elsewhere

Packed = str | bytes | Iterable[bytes]


class _Moving:
    """Of an async connection."""

    async def read_response(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError as failure:
            if is_elsewhere(failure):
                # guard: moved-connection
                self.mark_for_reconnect()  # not at once: answers to other commands may be on their way
            raise

    async def send_packed_command(self: Any, command: Packed, check_health: bool = True) -> None:
        if self.should_reconnect():
            await self.disconnect(nowait=True)
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        failure: RedisError | None = None
        try:
            await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except RedisError as error:
            failure = error
        # redis-py sends by asyncio.wait_for. Python 3.11's drops a cancellation that comes as it finishes or fails: the
        # task would go on, and its canceller would wait for ever (https://github.com/python/cpython/issues/86296).
        # guard: cancelled-while-sending
        if task and task.cancelling() > before:
            await self.disconnect(nowait=True)  # the answer is never read
            raise asyncio.CancelledError from failure
        if failure:
            raise failure


class _SyncMoving:
    """Of one that knows no asyncio."""

    def read_response(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError as failure:
            if is_elsewhere(failure):
                # guard: moved-celery-connection
                self.mark_for_reconnect()
            raise

    def send_packed_command(self: Any, command: Packed, check_health: bool = True) -> None:
        if self.should_reconnect():
            self.disconnect()
        super().send_packed_command(command, check_health)  # type: ignore[misc]


class Tcp(_Moving, Connection):
    """By TCP."""


class Tls(_Moving, SSLConnection):
    """By TLS."""


class Unix(_Moving, UnixDomainSocketConnection):
    """By a Unix socket."""


class SyncTcp(_SyncMoving, sync.Connection):
    """By TCP, without asyncio."""


class SyncTls(_SyncMoving, sync.SSLConnection):
    """By TLS, without asyncio."""


class SyncUnix(_SyncMoving, sync.UnixDomainSocketConnection):
    """By a Unix socket, without asyncio."""
