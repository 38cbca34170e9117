"""The HTTP application: `uvicorn --factory orchestrator.api.app:create`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from orchestrator import __version__
from orchestrator.api import admin, events, health, metrics, problems, sessions, token
from orchestrator.api.requests import RequestLog
from orchestrator.api.services import serving
from orchestrator.logs import configure_logging
from orchestrator.settings import Settings

_LOOPBACK_PAGES = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
#: Largest request body, in bytes.
BODY_BYTES = 65_536


def allowed_pages(settings: Settings) -> dict[str, Any]:
    """Return which pages of other origins may call the api. They send a header and no cookie, so * is safe too."""
    origins = [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]
    local = None if origins or settings.keys or settings.open_access else _LOOPBACK_PAGES
    return {
        "allow_origins": origins,
        "allow_origin_regex": local,
        "allow_methods": ["GET", "POST"],
        # The starters of LiveKit send x-sandbox-id; a preflight that does not allow it makes the call impossible.
        "allow_headers": ["*"],
        "expose_headers": ["Retry-After", "RateLimit", "RateLimit-Policy", "X-Request-Id"],
    }


def create(settings: Settings | None = None) -> FastAPI:
    """Return the application. Raises `Preflight` when a setting it needs is missing or wrong."""
    found = settings or Settings.load()
    configure_logging(found.log_format)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with serving(found, app):
            yield

    app = FastAPI(
        title="Voice-agent orchestrator",
        version=__version__,
        description="Press Talk, and an agent that is already running answers.",
        lifespan=lifespan,
    )
    problems.install(app)
    app.add_middleware(problems.BodyLimit, limit=BODY_BYTES)
    # Around everything that may refuse: a page must be able to read what went wrong.
    app.add_middleware(CORSMiddleware, **allowed_pages(found))
    app.add_middleware(RequestLog)
    for router in (sessions.router, events.router, token.router, admin.router, health.router, metrics.router):
        app.include_router(router)
    return app
