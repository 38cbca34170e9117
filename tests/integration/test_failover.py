"""A managed Redis fails over: its name resolves to another server, and the old one keeps running as a replica."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator.errors import StoreUnavailable
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.task_queue.app import REFILL, Publisher, make_worker_app
from orchestrator.worker.beat import Scheduler
from tests.support.agent_link import AgentLink
from tests.support.guest import until
from tests.support.pool import POLICY, warm
from tests.support.processes import free_ports, poll, start_valkey, stop
from tests.support.proxy import FaultProxy

#: Maximum seconds until everything works again.
HEALED = 15.0


class Pair:
    """A server and its replica behind one address."""

    def __init__(self, first: int, second: int, proxy: FaultProxy) -> None:
        self.url = f"redis://127.0.0.1:{proxy.port}/0"
        self.old = redis.Redis(port=first, decode_responses=True)
        self.new = redis.Redis(port=second, decode_responses=True)
        self._proxy, self._first, self._second = proxy, first, second
        self.new.replicaof("127.0.0.1", first)
        poll(lambda: self.new.info("replication")["master_link_status"] == "up", "the replica is in sync")

    def fail_over(self) -> None:
        """Promote the replica. Open connections stay with the old server."""
        self.old.wait(1, 5000)
        self.new.replicaof("NO", "ONE")
        self.old.replicaof("127.0.0.1", self._second)
        self._proxy._server = ("127.0.0.1", self._second)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        ports = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            ports.append(free_ports())
            stack.callback(stop, start_valkey(tmp_path / name, ports[-1], "--repl-diskless-sync-delay", "0"))
        proxy = stack.enter_context(FaultProxy("127.0.0.1", ports[0]))
        found = Pair(*ports, proxy)
        stack.callback(found.new.close)
        stack.callback(found.old.close)
        yield found


@pytest.fixture
async def store(pair: Pair) -> AsyncIterator[Store]:
    async with Store(pair.url, name="test", keep_seconds=3600) as found:
        await found.configure(POLICY, 0)
        yield found


def within(work: Callable[[], object]) -> None:
    """Repeat the work until it is no longer refused."""

    def done() -> bool:
        try:
            work()
        except StoreUnavailable:
            return False
        return True

    poll(done, "Redis accepts the command", HEALED, every=0.1)


async def test_every_connection_of_the_store_moves_to_the_new_server(pair: Pair, store: Store) -> None:
    (agent_id,) = await warm(store, pair.url, 1)
    link = AgentLink(pair.url, agent_id)
    try:
        await asyncio.gather(*(store.now() for _ in range(5)))  # to open as many connections
        assert await link.beat() == "ready"
        hearing = asyncio.create_task(link.next_message())
        async with asyncio.timeout(60):
            while not pair.old.info("clients")["blocked_clients"]:  # noqa: ASYNC110 - until it waits for a message
                await asyncio.sleep(0.01)
        pair.fail_over()

        # A client that got an error connects to the new server the next time.
        async def moved() -> bool:
            try:
                assert await link.beat() == "ready"
                await asyncio.gather(*(store.take_write() for _ in range(5)))
                await store.beat_node("n1", {"host": 1}, 60)
            except StoreUnavailable:
                return False
            return True

        await until(moved, "all connections have moved", HEALED)
        pair.new.rpush(f"agent:{agent_id}:inbox", '{"type": "hello"}')

        async def heard() -> dict[str, Any] | None:
            nonlocal hearing
            with contextlib.suppress(StoreUnavailable):
                if message := await hearing:
                    return message
            hearing = asyncio.create_task(link.next_message())
            return None

        assert await until(heard, "the agent has a message", HEALED) == {"type": "hello"}
        assert pair.new.exists("node:n1")
    finally:
        await link.close()


def test_queued_tasks_reach_the_new_server(pair: Pair) -> None:
    publisher = Publisher(pair.url)
    try:
        publisher.send(REFILL)
        pair.fail_over()
        before = pair.new.llen("celery")
        within(lambda: publisher.send(REFILL))
        assert pair.new.llen("celery") == before + 1
    finally:
        publisher.close()


def test_beat_moves_to_the_new_server(pair: Pair) -> None:
    app = make_worker_app(Settings(redis_url=pair.url, node_id="n1"))
    scheduler = Scheduler(app=app)
    try:
        scheduler.tick()
        pair.fail_over()
        pair.new.delete("beat:ticks")

        def ticked() -> bool:
            scheduler.tick()
            return bool(pair.new.hexists("beat:ticks", "beat"))

        poll(ticked, "beat ticks on the new server", HEALED)
    finally:
        scheduler.close()
        app.close()
