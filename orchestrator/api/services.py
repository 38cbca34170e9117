"""What the routes share: built once at start, reached through `Depends`."""

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Request
from starlette.convertors import Convertor, register_url_convertor

from orchestrator import faults
from orchestrator.api.access import AFTERWARDS_SECONDS, Access, Caller, Role
from orchestrator.api.feed import Feed
from orchestrator.errors import Forbidden, NotFound, Preflight, StoreUnavailable, Unauthorized
from orchestrator.livekit.room_creation import RoomCreator
from orchestrator.livekit.rooms import Rooms
from orchestrator.livekit.tokens import TokenMinter
from orchestrator.livekit.webhooks import Webhooks
from orchestrator.logs import request_id
from orchestrator.machine.process import may_live
from orchestrator.models import ID_PATTERN, Session
from orchestrator.pool.assignment import Assigner, Started
from orchestrator.settings import Settings
from orchestrator.states import SessionState
from orchestrator.store import Store
from orchestrator.task_queue import app as celery_app
from orchestrator.task_queue.app import Publisher

log = logging.getLogger("orchestrator.api")


#: Seconds that connecting to Redis, and one command, may each take: whoever asks is answered within 2 s.
PATIENCE = 0.9


@dataclass(slots=True)
class Services:
    """The api's own parts."""

    settings: Settings
    access: Access
    store: Store
    feed: Feed
    assigner: Assigner
    minter: TokenMinter
    rooms: RoomCreator
    webhooks: Webhooks
    publisher: Publisher
    threads: ThreadPoolExecutor
    background: set[asyncio.Task[None]]
    #: An agent of this node has been warm since the api started.
    proven: bool = False

    async def publish(self, task: str, *args: Any, queue: str | None = None, **options: Any) -> None:
        """Queue a Celery task. Raises `StoreUnavailable` when the broker does not take it."""
        headers = {"request_id": request_id()}  # here: the thread knows nothing of the request
        await asyncio.get_running_loop().run_in_executor(
            self.threads, lambda: self.publisher.send(task, *args, queue=queue, headers=headers, **options)
        )

    def publish_soon(self, task: str, *args: Any, **options: Any) -> None:
        """Queue a Celery task after the answer is given; beat makes up for one that is lost."""

        async def send() -> None:
            try:
                await self.publish(task, *args, **options)
            except StoreUnavailable as failure:
                log.warning("task not queued", extra={"task": task, "cause": failure.detail})

        pending = asyncio.create_task(send())
        self.background.add(pending)
        pending.add_done_callback(self.background.discard)

    async def queue_for(self, started: Started, key: str) -> None:
        """Queue what a start has left to do: the boot of its agent, a refill.

        Raises `StoreUnavailable` when its agent cannot be booted: then the session is over, and its key may be used
        again.
        """
        if started.spawn:
            faults.hit("api.after_assign")
            try:
                await self.publish(celery_app.SPAWN_AGENT, started.session_id, task_id=started.session_id)
            except StoreUnavailable:
                await self.store.end_session(started.session_id, SessionState.ERROR, "spawn_not_queued")
                if key:
                    await self.store.release_key(key)
                raise
        if started.refill:
            self.publish_soon(celery_app.REFILL, expires=25)


@contextlib.asynccontextmanager
async def serving(settings: Settings, app: FastAPI) -> AsyncIterator[None]:
    """Build the services of one app for as long as it serves."""
    if not (settings.livekit_url and settings.livekit_api_key and settings.livekit_api_secret):
        raise Preflight("the api needs LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET; `make up` sets them itself")
    if settings.admin_token is None:
        raise Preflight("the api needs ADMIN_TOKEN; `make up` generates one")
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
    assigner = Assigner(store, settings, minter.for_agent, partial(may_live, settings.node_id))
    publisher = Publisher(settings.redis)
    with ThreadPoolExecutor(4, "publish") as threads:
        async with store, _room_creator(settings) as rooms:
            feed = Feed(store)
            app.state.services = Services(
                settings, access, store, feed, assigner, minter, rooms, webhooks, publisher, threads, set()
            )
            following = asyncio.create_task(feed.run())
            with _told_to_stop(feed.close):
                yield
            feed.close()
            following.cancel()
            await asyncio.gather(following, *app.state.services.background, return_exceptions=True)
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
def _told_to_stop(then: Callable[[], None]) -> Iterator[None]:
    """Call `then` when the server is told to stop: it waits for open streams, which would not end by themselves."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are somebody else's
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


def services(request: Request) -> Services:
    """Return the app's services."""
    found: Services = request.app.state.services
    return found


# The dependencies are coroutines, though they wait for nothing: FastAPI runs plain functions in a thread each.
async def _services(request: Request) -> Services:
    return services(request)


ServicesDep = Annotated[Services, Depends(_services)]


class SessionIdConvertor(Convertor[str]):
    """Session ids in paths: what is none is no route, and never reaches Redis."""

    regex = ID_PATTERN.strip("^$")

    def convert(self, value: str) -> str:
        """Return the id as it stands."""
        return value

    def to_string(self, value: str) -> str:
        """Return the id as it stands."""
        return value


register_url_convertor("session", SessionIdConvertor())
SessionPath = Annotated[str, Path(pattern=ID_PATTERN, examples=["prewarm_4f0c2a9d8b7e6f5a4b3c2d1e0f9a8b7c"])]


async def known(request: Request, parts: ServicesDep) -> Caller:
    """Return who sends a request; a client secret is not looked at yet. Raises `Unauthorized`."""
    found: Caller | None = getattr(request.state, "caller", None)  # a gate has looked already
    return found or parts.access.caller(request)


async def shown(request: Request) -> Caller:
    """Return who sends a request, for a gate. Raises `Unauthorized`."""
    return services(request).access.caller(request)


async def starter(request: Request) -> Caller:
    """Return who sends a request that is about no session, for a gate. Raises `Unauthorized`."""
    return services(request).access.starter(request)


async def administrator(request: Request) -> None:
    """Let only the holder of the admin token pass, for a gate. Raises `Unauthorized`, `Forbidden`."""
    await require_admin(request, services(request))


async def require_admin(request: Request, parts: ServicesDep) -> None:
    """Let only the holder of the admin token pass. Raises `Unauthorized`, `Forbidden`."""
    try:
        role = parts.access.caller(request).role
    except Unauthorized:
        role = Role.ANYBODY
    if role is Role.ANYBODY:
        raise Unauthorized("This route needs the admin token: send `Authorization: Bearer <ADMIN_TOKEN>`.")
    if role is not Role.ADMIN:
        raise Forbidden


async def visible(parts: ServicesDep, caller: Caller, session_id: str) -> Session:
    """Return a session that a caller may see. Raises `NotFound`, whatever the cause."""
    if not parts.access.may_see(caller, session_id):
        raise NotFound
    session = await parts.store.session(session_id)
    if session is None:
        raise NotFound
    ended = session.ended_at if caller.role is Role.CLIENT else None
    if ended is not None and await parts.store.now() > ended + AFTERWARDS_SECONDS:
        raise NotFound
    return session


CallerDep = Annotated[Caller, Depends(known)]


async def the_session(session_id: SessionPath, caller: CallerDep, parts: ServicesDep) -> Session:
    """Return the session that a path names. Raises `NotFound`, `Unauthorized`."""
    return await visible(parts, caller, session_id)


SessionDep = Annotated[Session, Depends(the_session)]
