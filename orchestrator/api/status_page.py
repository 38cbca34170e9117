"""The status page's files: public, without data, and allowed to load only files of this origin."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

WEB = Path(__file__).resolve().parents[1] / "web"

#: No inline script or style, no other host, no frame; a script cannot turn text into HTML by mistake.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    # Revalidated each time and answered 304, so that a page and its scripts are always of one version.
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


class Files(StaticFiles):
    """Files of a page, with its headers."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return a file as Starlette does, and the headers."""
        answer = super().file_response(*args, **kwargs)
        answer.headers.update(HEADERS)
        return answer


@router.get("/status")
async def status() -> FileResponse:
    """Return the status page, which asks for the admin token."""
    return FileResponse(WEB / "status.html", headers=HEADERS)


def install(app: FastAPI) -> None:
    """Serve the page and its files."""
    app.include_router(router)
    app.mount("/web", Files(directory=WEB), name="web")
