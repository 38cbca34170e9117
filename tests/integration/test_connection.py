"""Connections to a real Valkey that is restarted."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from orchestrator.errors import StoreUnavailable
from orchestrator.store import Store
from orchestrator.store.connection import connect, connect_blocking
from tests.support.processes import alive, free_ports, start_valkey, stop

CONNECTIONS = 5


@pytest.mark.parametrize("client", [connect, connect_blocking])
async def test_idle_connections_work_after_a_restart_of_redis(client: Callable[..., Redis], tmp_path: Path) -> None:
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


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_command_can_be_cancelled_at_any_step(store: Store, blocking: bool) -> None:
    for steps in range(40):
        command = store.changes("$") if blocking else store.last_change()
        task = asyncio.create_task(command)
        for _ in range(steps):
            await asyncio.sleep(0)
        if not task.cancel():
            continue  # the answer came before the cancellation
        done, _ = await asyncio.wait([task], timeout=2)
        assert done, f"cancelled after {steps} steps of the loop, the task goes on"
        assert task.cancelled(), f"cancelled after {steps} steps of the loop, it has an answer"


async def test_a_command_can_be_cancelled_while_its_connection_is_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.last_change()

    async def lose(*_: object) -> None:
        await asyncio.sleep(0)
        raise OSError(104, "Connection reset by peer")

    for steps in range(20):
        with monkeypatch.context() as patch:
            patch.setattr("redis.asyncio.connection.AbstractConnection._send_packed_command", lose)
            task = asyncio.create_task(store.last_change())
            for _ in range(steps):
                await asyncio.sleep(0)
            if not task.cancel():
                assert isinstance(task.exception(), StoreUnavailable)
                continue
            await asyncio.wait([task], timeout=2)
        assert task.cancelled(), f"cancelled after {steps} steps of the loop, it fails with {task.exception()!r}"
