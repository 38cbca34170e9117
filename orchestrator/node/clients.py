"""Checks that each of a node's Redis clients can connect, before the node counts as up."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

from celery import Celery

from orchestrator.errors import SchemaMismatch, StoreUnavailable
from orchestrator.operations import sharing
from orchestrator.reasons import HealthWarning, warn
from orchestrator.settings import Settings
from orchestrator.store import Node, Store
from orchestrator.store.relay_store import RelayStore
from orchestrator.store.rights import examine
from orchestrator.task_queue.app import Publisher, make_worker_app


def refusal(settings: Settings) -> HealthWarning | None:
    """Return why a client cannot use Redis, and what to do; None if all can.

    Raises:
        StoreUnavailable: it does not answer.
    """
    address = settings.redis
    if refused := examine(address):
        return refused
    for name, failure in try_each(settings).items():
        if isinstance(failure, SchemaMismatch):
            return warn("schema_mismatch", detail=failure.detail)
        if failure:
            return warn("redis_client_refused", client=name, address=str(address), detail=str(failure))
    return None


def try_each(settings: Settings) -> dict[str, Exception | None]:
    """Connect with each client in turn; returns its failure, if any."""
    app, publisher = make_worker_app(settings, current=False), Publisher(settings.redis)
    kinds: dict[str, Callable[[], object]] = {
        "the store": lambda: asyncio.run(_store(settings)),
        "the relay": lambda: asyncio.run(_relay(settings)),
        "the api's publisher": publisher.check,
        "the Celery worker": lambda: _broker(app),
        "the Celery worker's results": app.backend.client.ping,
        "beat": app.redbeat_redis.ping,
    }
    failures: dict[str, Exception | None] = {}
    try:
        for name, check in kinds.items():
            try:
                check()
                failures[name] = None
            except Exception as failure:  # each library has errors of its own
                failures[name] = failure
    finally:
        publisher.close()
        app.close()
    return failures


def _broker(app: Celery) -> None:
    with app.connection_for_read() as connection:
        connection.default_channel.client.ping()


async def _store(settings: Settings) -> None:
    async with Store(settings.redis, name="up", keep_seconds=1) as store:
        await store.check_schema()
        await store.check_blocking()


async def _relay(settings: Settings) -> None:
    store = RelayStore(settings.redis)
    try:
        await store.check()
    finally:
        await store.close()


def sharing_warnings(settings: Settings) -> list[HealthWarning]:
    """Return warnings about others that use this Redis and are no nodes of the same orchestrator."""

    async def collect() -> list[HealthWarning]:
        async with Store(settings.redis, name="up", keep_seconds=1) as store:
            nodes = await store.nodes()
            own = nodes.get(settings.node_id, Node(settings.node_id))
            nodes[settings.node_id] = replace(own, serves=json.loads(settings.serves))
            return [*sharing.troubles(nodes), *sharing.traces(*await store.neighbours())]

    try:
        return asyncio.run(collect())
    except StoreUnavailable:
        return []
