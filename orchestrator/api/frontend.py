"""The page with the Talk button, as built into `frontend/dist`: served at `/`, without Node.

Its files have their content's hash in their names, so browsers keep them for ever; the page itself is asked for anew
each time. Not built: `/` says how to build it. It is looked for at every request, so that what is built while the api
runs is served.
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

    Without a slash at its end that is the page too: a proxy that takes it off asks for `/` either way.
    """
    return page.replace("<head>", f'<head>\n    <base href="{root}/" />', 1) if root else page


def page_headers(settings: Settings) -> dict[str, str]:
    """Return the headers of a page: what it may load, and from where."""
    # When a connection fails, LiveKit's client asks the same server over HTTP for the reason.
    livekit = urlsplit(settings.livekit_public_url or settings.livekit_url or "")
    over_http = [f"{livekit.scheme.replace('ws', 'http', 1)}://{livekit.netloc}"] if livekit.netloc else []
    # Who may call the api from a page may show this one in theirs, and may be the backend that starts its calls.
    friends = settings.origins
    policy = (
        "default-src 'self'",
        " ".join(["connect-src 'self' ws: wss:", *over_http, *(origin for origin in friends if origin != "*")]),
        "img-src 'self' data:",
        "media-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'" if settings.root_path else "base-uri 'none'",
        "form-action 'none'",
        " ".join(["frame-ancestors 'self'", *friends]),
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
        """Say 404 while there is none of them. Raises HTTPException."""
        if not self._built():
            raise HTTPException(HTTPStatus.NOT_FOUND)

    def _built(self) -> bool:
        return self.directory is not None and Path(self.directory).is_dir()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def kept(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"x-content-type-options", b"nosniff")]
                if message["status"] in {200, 206, 304}:
                    headers.append((b"cache-control", b"public, max-age=31536000, immutable"))
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await super().__call__(scope, receive, kept)
