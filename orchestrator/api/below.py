"""Serves an app below the path of a reverse proxy, whether the proxy strips the path or passes it on.

In ASGI, `path` begins with `root_path`: routes match the rest, and a problem's `instance` is the path that the client
asked for. uvicorn's own `root_path` supports only proxies that strip it.
"""

from starlette.types import ASGIApp, Receive, Scope, Send


class Below:
    """Adds the root path to the scope of each request, which may have it already."""

    def __init__(self, app: ASGIApp, root: str) -> None:
        self._app, self._root = app, root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            path, raw = scope["path"], scope.get("raw_path") or b""
            if path == self._root:
                path, raw = path + "/", raw + b"/"
            elif not path.startswith(f"{self._root}/"):
                path, raw = self._root + path, self._root.encode() + raw
            # guard: path-below
            scope.update(path=path, raw_path=raw, root_path=self._root)
        await self._app(scope, receive, send)


def below_root(scope: Scope) -> str:
    """Return the path of a request without the root path."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
