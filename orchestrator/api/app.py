"""The HTTP application: `uvicorn --factory orchestrator.api.app:create`."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from orchestrator import __version__
from orchestrator.api import (
    admin,
    agents,
    docs_page,
    events,
    frontend,
    health,
    metrics,
    problems,
    reasons,
    sessions,
    status,
    status_page,
    token,
    webhook,
)
from orchestrator.api.below import Below
from orchestrator.api.dispatch import dispatching
from orchestrator.api.lifecycle import serving
from orchestrator.api.request_log import RequestLog
from orchestrator.logs import configure_logging
from orchestrator.settings import WEBHOOK_PATH, Settings

_LOOPBACK_PAGES = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
#: Largest request body, in bytes.
BODY_BYTES = 65_536


def allowed_pages(settings: Settings) -> dict[str, Any]:
    """Return which pages of other origins may call the api. Even * is safe: callers send a header, not a cookie."""
    local = None if settings.origins or settings.keys or settings.open_access else _LOOPBACK_PAGES
    return {
        "allow_origins": settings.origins,
        "allow_origin_regex": local,
        "allow_methods": ["GET", "POST"],
        # LiveKit's starters send x-sandbox-id; without it in the preflight's answer they cannot call.
        "allow_headers": ["*"],
        "expose_headers": ["Retry-After", "RateLimit", "RateLimit-Policy", "X-Request-Id"],
    }


#: What needs no credentials: platforms ask whether it lives, LiveKit signs what it sends, and words are no secret.
PUBLIC = frozenset({"/livez", "/readyz", "/api/reasons", WEBHOOK_PATH})


def _documented(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Return FastAPI's own `openapi` with the secret that each route needs."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            bearer = {"type": "http", "scheme": "bearer"}
            schema.setdefault("components", {})["securitySchemes"] = {
                "key": bearer | {"description": "One of API_KEYS; a session's clientSecret for that session alone."},
                "admin": bearer | {"description": "ADMIN_TOKEN."},
            }
            for path, methods in schema["paths"].items():
                for route in methods.values():
                    if path not in PUBLIC:
                        secret = "admin" if "admin" in route.get("tags", ()) else "key"
                        route.setdefault("security", [{secret: []}])
                    route["responses"].pop("422", None)  # FastAPI's own shape, which is never sent
                    for status, response in route["responses"].items():
                        if status in problems.PROBLEM_RESPONSES:
                            response["content"] = problems.CONTENT
            for unused in ("HTTPValidationError", "ValidationError"):
                schema["components"]["schemas"].pop(unused, None)
        assert app.openapi_schema is not None
        return app.openapi_schema

    return openapi


def create(settings: Settings | None = None) -> FastAPI:
    """Return the application. Raises `Preflight` when a setting it needs is missing or wrong."""
    settings = settings or Settings.load()
    configure_logging(settings.log_format)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with serving(settings, app), dispatching(app.state.services):
            yield

    app = FastAPI(
        title="Voice-agent orchestrator",
        version=__version__,
        description="A user presses Talk, and an agent that is already running answers.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load foreign scripts, which could read the admin token of this origin
        redoc_url=None,
        # A redirect would use the Host header as it was sent, and http where a proxy has TLS.
        # guard: no-redirect
        redirect_slashes=False,
    )
    app.state.over_limit = {}
    problems.install(app)
    # guard: webhook-bytes
    app.add_middleware(problems.BodyLimit, limit=BODY_BYTES, larger={WEBHOOK_PATH: webhook.BODY_BYTES})
    # Outside everything that may refuse a request, so that a page can read the error.
    app.add_middleware(CORSMiddleware, **allowed_pages(settings))
    if settings.root_path:
        app.add_middleware(Below, root=settings.root_path)
    app.add_middleware(RequestLog)
    app.include_router(sessions.starting)
    for part in (sessions, events, token, admin, agents, health, reasons, webhook, metrics):
        app.include_router(part.router)
    status.install(app)
    status_page.install(app)
    docs_page.install(app)
    app.openapi = _documented(app)  # type: ignore[method-assign]
    frontend.install(app, settings)
    return app
