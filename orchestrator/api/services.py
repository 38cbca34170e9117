"""What the routes share: built once at start, reached through `Depends`."""

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from kombu.exceptions import OperationalError

from orchestrator.celery_app import Publisher
from orchestrator.errors import Preflight, StoreUnavailable, Unauthorized
from orchestrator.livekit.tokens import TokenMinter
from orchestrator.node.process import may_live
from orchestrator.pool.assignment import Assigner
from orchestrator.settings import Settings
from orchestrator.store import Store

log = logging.getLogger("orchestrator.api")


#: Seconds that connecting to Redis, and one command, may each take: whoever asks is answered within 2 s.
PATIENCE = 0.9


@dataclass(slots=True)
class Services:
    """The api's own parts."""

    settings: Settings
    store: Store
    assigner: Assigner
    minter: TokenMinter
    publisher: Publisher
    threads: ThreadPoolExecutor
    background: set[asyncio.Task[None]]

    async def publish(self, task: str, *args: Any, queue: str | None = None, **options: Any) -> None:
        """Queue a Celery task. Raises `StoreUnavailable` when the broker does not answer."""
        try:
            await asyncio.get_running_loop().run_in_executor(
                self.threads, lambda: self.publisher.send(task, *args, queue=queue, **options)
            )
        except OperationalError as failure:
            raise StoreUnavailable(f"the task queue does not answer: {failure}", retry_after=2) from failure

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


@contextlib.asynccontextmanager
async def serving(settings: Settings, app: FastAPI) -> AsyncIterator[None]:
    """Build the services of one app for as long as it serves."""
    if not (settings.livekit_url and settings.livekit_api_key and settings.livekit_api_secret):
        raise Preflight("the api needs LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET; `make up` sets them itself")
    if settings.admin_token is None:
        raise Preflight("the api needs ADMIN_TOKEN; `make up` generates one")
    minter = TokenMinter(
        settings.livekit_api_key,
        settings.livekit_api_secret.get_secret_value(),
        agent_seconds=settings.agent_token_seconds,
        empty_seconds=settings.room_empty_seconds,
        departure_seconds=settings.room_departure_seconds,
    )
    store = Store(
        settings.required_redis_url, name="api", keep_seconds=settings.session_keep_seconds, patience=PATIENCE
    )
    assigner = Assigner(store, settings, minter.for_agent, partial(may_live, settings.node_id))
    publisher = Publisher(settings.required_redis_url)
    with ThreadPoolExecutor(4, "publish") as threads:
        async with store:
            app.state.services = Services(settings, store, assigner, minter, publisher, threads, set())
            yield
            await asyncio.gather(*app.state.services.background, return_exceptions=True)
    publisher.close()


def services(request: Request) -> Services:
    """Return the app's services."""
    found: Services = request.app.state.services
    return found


# The dependencies are coroutines, though they wait for nothing: FastAPI runs plain functions in a thread each.
async def _services(request: Request) -> Services:
    return services(request)


def client_address(request: Request) -> str:
    """Return what the rate limit counts by: the peer's address; for IPv6 its /64, which is one household."""
    peer = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return peer


async def require_admin(request: Request, found: Annotated[Services, Depends(_services)]) -> None:
    """Let only the holder of the admin token pass. Raises `Unauthorized`."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    assert found.settings.admin_token is not None
    expected = found.settings.admin_token.get_secret_value()
    digests = (hashlib.sha256(text.strip().encode()).digest() for text in (given, expected))
    if scheme.lower() != "bearer" or not secrets.compare_digest(*digests):
        raise Unauthorized


ServicesDep = Annotated[Services, Depends(_services)]
