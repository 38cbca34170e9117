"""The API's documentation at `/docs`: Swagger UI, served from an installed package and never from another host.

The page shares its origin with the status page, which keeps the admin token: it may load files of this origin only.
"""

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from starlette.middleware.gzip import GZipMiddleware

from orchestrator.api.status_page import HEADERS, WEB, Files

#: Without Trusted Types: Swagger UI sets sanitized HTML from Markdown. Its style sheet has icons as data URLs.
_HEADERS = HEADERS | {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
}

router = APIRouter(include_in_schema=False)


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs() -> FileResponse:
    """Return the page; it reads `openapi.json` beside it."""
    # guard: docs-headers
    return FileResponse(WEB / "docs.html", headers=_HEADERS)


def install(app: FastAPI) -> None:
    """Serve the page and its files."""
    app.include_router(router)
    files = Files(packages=[("fastapi_swagger", "resources")])
    app.mount("/docs", GZipMiddleware(files), name="docs")
