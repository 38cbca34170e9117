"""The API in a test: in process, or served on its own port when a test reads streams."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from orchestrator.api.server import configuration
from orchestrator.settings import Settings

ADMIN = {"Authorization": "Bearer a-token-for-tests"}


def settings(url: str, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "redis_url": url, "livekit_url": "ws://127.0.0.1:1", "livekit_api_key": "key", "livekit_api_secret": "s" * 40,
        "admin_token": "a-token-for-tests", "node_id": "api-test", "rate_limit": "1000/minute",
        "sessions_per_address": 0, "waiting_per_address": 0,
    }  # fmt: skip
    return Settings(**values | changes)


@asynccontextmanager
async def serve(app: FastAPI, *, configured: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    async with app.router.lifespan_context(app):
        parts = app.state.services
        if configured:
            await parts.store.configure(parts.settings.policy, 0)  # as a node does when it starts
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("10.1.2.3", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client


@asynccontextmanager
async def on_a_port(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an app with uvicorn, so that each part of a stream arrives as soon as it is sent."""
    config = configuration(app, Settings(_env_file=None))  # type: ignore[call-arg]
    config.host, config.port = "127.0.0.1", 0
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    serving = asyncio.create_task(server.main_loop())
    parts = app.state.services
    await parts.store.configure(parts.settings.policy, 0)
    (port,) = (sock.getsockname()[1] for sock in server.servers[0].sockets)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        try:
            yield client
        finally:
            parts.feed.close()  # as SIGTERM does
            server.should_exit = True
            async with asyncio.timeout(60):
                await serving
                await server.shutdown()


async def start(http: httpx.AsyncClient, user: str, **options: Any) -> httpx.Response:
    return await http.post("/api/session/start", json={"userId": user}, **options)


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["success"], body["status"], body["code"]) == (False, status, code)
    assert body["detail"]
    return body
