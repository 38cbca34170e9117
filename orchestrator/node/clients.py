"""Tries each kind of client that a node has, before anybody is told that the node is up."""

import asyncio
from collections.abc import Callable

from celery import Celery

from orchestrator.errors import SchemaMismatch, StoreUnavailable
from orchestrator.operations import sharing
from orchestrator.settings import Settings
from orchestrator.store import Node, Store
from orchestrator.store.agent_link import AgentLink
from orchestrator.store.rights import examine
from orchestrator.task_queue.app import Publisher, make_worker_app


def refusal(settings: Settings) -> str | None:
    """Return why Redis cannot be used as it is set, and what to do; None when every kind of client gets in.

    Raises:
        StoreUnavailable: it does not answer.
    """
    where = settings.redis
    if found := examine(where):
        return found
    for name, failure in tried(settings).items():
        if isinstance(failure, SchemaMismatch):
            return failure.detail
        if failure:
            return f"{name} does not get into Redis at {where}: {failure}"
    return None


def tried(settings: Settings) -> dict[str, Exception | None]:
    """Try each kind of client by itself; returns why it does not get in."""
    app, publisher = make_worker_app(settings, current=False), Publisher(settings.redis)
    kinds: dict[str, Callable[[], object]] = {
        "the store": lambda: asyncio.run(_store(settings)),
        "an agent": lambda: asyncio.run(_agent(settings)),
        "the api's publisher": publisher.check,
        "the Celery worker": lambda: _broker(app),
        "the Celery worker's results": app.backend.client.ping,
        "beat": app.redbeat_redis.ping,
    }
    found: dict[str, Exception | None] = {}
    try:
        for name, check in kinds.items():
            try:
                check()
                found[name] = None
            except Exception as failure:  # each library has errors of its own
                found[name] = failure
    finally:
        publisher.close()
        app.close()
    return found


def _broker(app: Celery) -> None:
    with app.connection_for_read() as connection:
        connection.default_channel.client.ping()


async def _store(settings: Settings) -> None:
    async with Store(settings.redis, name="up", keep_seconds=1) as store:
        await store.check_schema()
        await store.check_blocking()


async def _agent(settings: Settings) -> None:
    link = AgentLink(settings.redis, "up")
    try:
        await link.check()
    finally:
        await link.close()


def company(settings: Settings) -> list[str]:
    """Return, in words, who else uses this Redis without being a node of the same orchestrator."""

    async def look() -> list[str]:
        async with Store(settings.redis, name="up", keep_seconds=1) as store:
            hashes = await store.nodes()
            hashes.setdefault(settings.node_id, {})["serves"] = settings.serves
            nodes = {name: Node.from_hash(name, fields) for name, fields in hashes.items()}
            return [*sharing.troubles(nodes), *sharing.traces(*await store.neighbours())]

    try:
        return asyncio.run(look())
    except StoreUnavailable:
        return []
