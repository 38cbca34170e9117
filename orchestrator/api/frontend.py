"""The page with the Talk button, as built into `frontend/dist`: served at `/`, without Node.

Its files have a hash of their content in their names, so browsers cache them for ever; the page itself is requested
each time. While it is not built, `/` says how to build it. The files are looked up at every request, so a page that is
built while the api runs is served.
"""

from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from orchestrator.settings import Settings

_NOT_BUILT = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Not built yet</title>
<h1>The page is not built yet</h1>
<p>In the checkout, run <code>make frontend</code> (it needs Node 20.19 or later), and reload this page.
<p>The api works without it: <a href="docs">its documentation</a>.
</html>
"""


def install(app: FastAPI, settings: Settings) -> None:
    """Serve the page."""
    dist, root = settings.frontend_dir, settings.root_path
    headers = page_headers(settings)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> Response:
        if not (index := dist / "index.html").is_file():
            return HTMLResponse(
                _below(root, _NOT_BUILT), HTTPStatus.SERVICE_UNAVAILABLE, headers | {"Retry-After": "60"}
            )
        if root:
            return HTMLResponse(_below(root, index.read_text("utf-8")), headers=headers)
        return FileResponse(index, headers=headers)

    @app.get("/favicon.svg", include_in_schema=False)
    async def icon() -> Response:
        return FileResponse(dist / "favicon.svg") if (dist / "favicon.svg").is_file() else Response(status_code=404)

    assets = _Assets(directory=dist / "assets", check_dir=False)
    app.mount("/assets", GZipMiddleware(assets), name="assets")


def _below(root: str, page: str) -> str:
    """Return a page whose relative addresses begin at ROOT_PATH.

    ROOT_PATH without a slash is the page too: a proxy that strips the path requests `/` in both cases.
    """
    # guard: page-base
    return page.replace("<head>", f'<head>\n    <base href="{root}/" />', 1) if root else page


def page_headers(settings: Settings) -> dict[str, str]:
    """Return the headers of a page: what it may load, and from where."""
    # When a connection fails, LiveKit's client requests the reason from the same server over HTTP.
    livekit = urlsplit(settings.livekit_public_url or settings.livekit_url or "")
    over_http = [f"{livekit.scheme.replace('ws', 'http', 1)}://{livekit.netloc}"] if livekit.netloc else []
    # A page that may call the api may also embed this one, and may be the backend that starts its calls.
    origins = settings.origins
    policy = (
        "default-src 'self'",
        " ".join(["connect-src 'self' ws: wss:", *over_http, *(origin for origin in origins if origin != "*")]),
        "img-src 'self' data:",
        "media-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'" if settings.root_path else "base-uri 'none'",
        "form-action 'none'",
        " ".join(["frame-ancestors 'self'", *origins]),
    )
    return {
        "Content-Security-Policy": "; ".join(policy),
        "Permissions-Policy": "camera=(), geolocation=()",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }


class _Assets(StaticFiles):
    """Files whose names change with their content."""

    async def check_config(self) -> None:
        """Answer 404 while the page is not built. Raises HTTPException."""
        if not self._built():
            raise HTTPException(HTTPStatus.NOT_FOUND)

    def _built(self) -> bool:
        return self.directory is not None and Path(self.directory).is_dir()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"x-content-type-options", b"nosniff")]
                if message["status"] in {200, 206, 304}:
                    headers.append((b"cache-control", b"public, max-age=31536000, immutable"))
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await super().__call__(scope, receive, with_headers)
