"""One command on Redis as an operator writes it, for `orchestrator redis`."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from redis.exceptions import RedisError

from orchestrator.config.redis_url import Address
from orchestrator.store.connection import connect_sync
from orchestrator.store.refusals import translate


def run(where: Address, words: Sequence[str]) -> Any:
    """Run one command; names are written in full, with the prefix. Raises `OrchestratorError`."""
    client: Any = connect_sync(where, name="cli")
    with closing(client):
        client.response_callbacks.clear()  # as Redis answers, not as redis-py means it
        try:
            return client.execute_command(*words)
        except RedisError as failure:
            raise translate(failure) from failure


def lines(reply: Any) -> Iterator[str]:
    """Yield a reply's values, one a line, as redis-cli does when its output is no terminal."""
    if isinstance(reply, dict):
        reply = [part for pair in reply.items() for part in pair]
    if isinstance(reply, list | tuple | set):
        for part in reply:
            yield from lines(part)
    else:
        yield "" if reply is None else str(reply)
