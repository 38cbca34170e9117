"""The connections to a real Valkey that is restarted."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from orchestrator.store.connection import connect, connect_blocking
from tests.support.processes import alive, free_ports, start_valkey, stop

CONNECTIONS = 5


@pytest.mark.parametrize("client", [connect, connect_blocking])
async def test_connections_that_were_idle_over_a_restart_of_redis_fail_nobody(
    client: Callable[..., Redis], tmp_path: Path
) -> None:
    port = free_ports()
    valkey = start_valkey(tmp_path, port)
    async with client(f"redis://127.0.0.1:{port}/0", name="idle") as redis:
        kept = await asyncio.gather(*(redis.blpop(["nothing"], 0.2) for _ in range(CONNECTIONS)))
        assert kept == [None] * CONNECTIONS
        valkey.kill()
        valkey.wait()
        valkey = await asyncio.to_thread(start_valkey, tmp_path, port)
        try:
            assert await asyncio.gather(*(redis.ping() for _ in range(CONNECTIONS))) == [True] * CONNECTIONS
        finally:
            stop(valkey)
    assert not alive(valkey.pid)
