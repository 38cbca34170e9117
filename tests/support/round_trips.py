"""Counts the round trips to Redis: each write to a connection is one, and so is a whole pipeline."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from unittest.mock import patch

from redis.asyncio.connection import AbstractConnection

#: Counts only commands of the block and of tasks that it starts, because a served API has its own tasks.
_counts: ContextVar[list[int] | None] = ContextVar("round_trips", default=None)


@contextmanager
def round_trips() -> Iterator[list[int]]:
    """Yield a list with one number: the round trips of the block so far."""
    send = AbstractConnection.send_packed_command

    async def counting(self: AbstractConnection, command: Any, check_health: bool = True) -> None:
        if (counts := _counts.get()) is not None:
            counts[0] += 1
        await send(self, command, check_health)

    counts = [0]
    with patch.object(AbstractConnection, "send_packed_command", counting):
        token = _counts.set(counts)
        try:
            yield counts
        finally:
            _counts.reset(token)
