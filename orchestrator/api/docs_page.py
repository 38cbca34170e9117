"""The API's documentation at `/docs`: Swagger UI, whose files come with a package, so that nothing is foreign.

The page is of the same origin as the status page, which keeps the admin token: it may load nothing but what is ours.
"""

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from starlette.middleware.gzip import GZipMiddleware

from orchestrator.api.status_page import HEADERS, WEB, Files

#: Swagger UI sets HTML from Markdown, after cleaning it: so without Trusted Types. Its icons are in its style sheet.
_HEADERS = HEADERS | {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
}

router = APIRouter(include_in_schema=False)


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs() -> FileResponse:
    """Return the page; it reads `openapi.json` beside it."""
    return FileResponse(WEB / "docs.html", headers=_HEADERS)


def install(app: FastAPI) -> None:
    """Serve the page and its files."""
    app.include_router(router)
    files = Files(packages=[("fastapi_swagger", "resources")])
    app.mount("/docs", GZipMiddleware(files), name="docs")
