"""The HTTP application: `uvicorn --factory orchestrator.api.app:create`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from orchestrator import __version__
from orchestrator.api import admin, health, problems, sessions
from orchestrator.api.services import serving
from orchestrator.logs import configure_logging
from orchestrator.settings import Settings

#: Largest request body, in bytes.
BODY_BYTES = 65_536


def create(settings: Settings | None = None) -> FastAPI:
    """Return the application. Raises `Preflight` when a setting it needs is missing or wrong."""
    found = settings or Settings.load()
    configure_logging()

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
    for router in (sessions.router, admin.router, health.router):
        app.include_router(router)
    return app
