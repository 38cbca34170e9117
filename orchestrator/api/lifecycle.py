"""Builds the services of the api when it starts, and closes them when it stops.

A server that stops waits for open connections; streams never end by themselves, so they are closed first.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType

from fastapi import FastAPI

from orchestrator.api.access import Access
from orchestrator.api.change_feed import ChangeFeed
from orchestrator.api.services import Services
from orchestrator.errors import Preflight
from orchestrator.livekit.room_creation import RoomCreator
from orchestrator.livekit.rooms import Rooms
from orchestrator.livekit.tokens import TokenMinter
from orchestrator.livekit.webhooks import Webhooks
from orchestrator.machine.process import may_live
from orchestrator.pool.assignment import Assigner
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.task_queue.app import Publisher

#: Seconds that connecting to Redis, and one command, may each take: every request is answered within 2 s.
# guard: redis-patience
PATIENCE = 0.9


@contextlib.asynccontextmanager
async def serving(settings: Settings, app: FastAPI) -> AsyncIterator[None]:
    """Build the services of one app for as long as it serves."""
    if not (settings.livekit_url and settings.livekit_api_key and settings.livekit_api_secret):
        raise Preflight("the api needs LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET; `make up` sets them itself")
    if settings.admin_token is None:
        raise Preflight("the api needs ADMIN_TOKEN; `make up` generates one")
    # guard: api-keys-missing
    if settings.access_trouble:
        raise Preflight(settings.access_trouble)
    access = Access(settings)
    minter = TokenMinter(
        settings.livekit_api_key,
        settings.livekit_api_secret.get_secret_value(),
        agent_name=settings.agent_name,
        agent_seconds=settings.agent_token_seconds,
        empty_seconds=settings.room_empty_seconds,
        departure_seconds=settings.room_departure_seconds,
    )
    webhooks = Webhooks(settings.livekit_api_key, settings.livekit_api_secret.get_secret_value())
    store = Store(settings.redis, name="api", keep_seconds=settings.session_keep_seconds, patience=PATIENCE)
    assigner = Assigner(store, settings, minter.of_agent, partial(may_live, settings.node_id))
    publisher = Publisher(settings.redis)
    with ThreadPoolExecutor(4, "publish") as threads:
        async with store, _room_creator(settings) as rooms:
            feed = ChangeFeed(store)
            app.state.services = Services(
                settings, access, store, feed, assigner, minter, rooms, webhooks, publisher, threads, set()
            )
            listening = asyncio.create_task(feed.run(), name="change feed")
            # guard: streams-stop
            with _on_stop_signal(feed.close):
                yield
            feed.close()
            listening.cancel()
            await asyncio.gather(listening, *app.state.services.background, return_exceptions=True)
    publisher.close()


@contextlib.asynccontextmanager
async def _room_creator(settings: Settings) -> AsyncIterator[RoomCreator]:
    assert settings.livekit_url and settings.livekit_api_key and settings.livekit_api_secret  # noqa: PT018 - one thing
    async with Rooms(
        settings.livekit_url,
        settings.livekit_api_key,
        settings.livekit_api_secret.get_secret_value(),
        empty_seconds=settings.room_empty_seconds,
        departure_seconds=settings.room_departure_seconds,
    ) as rooms:
        maker = RoomCreator(rooms)
        watching = asyncio.create_task(maker.watch())
        try:
            yield maker
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


@contextlib.contextmanager
def _on_stop_signal(then: Callable[[], None]) -> Iterator[None]:
    """Call `then` on SIGTERM and SIGINT, before the server's own handler."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    loop = asyncio.get_running_loop()
    servers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(then)
        server = servers[signal.Signals(number)]
        if callable(server):
            server(number, frame)

    for number in servers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, server in servers.items():
            signal.signal(number, server)
