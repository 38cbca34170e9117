"""Serves an app below the path of a reverse proxy, whether the proxy takes the path off or passes it on.

As ASGI has it, `path` begins with `root_path`: routes match what comes after it, and a problem's `instance` is the path
that its reader asked for. uvicorn's own `root_path` knows proxies that take it off, and no others.
"""

from starlette.types import ASGIApp, Receive, Scope, Send


class Below:
    """Puts a root path into the scope of each request, which may come with it or without."""

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
            scope.update(path=path, raw_path=raw, root_path=self._root)
        await self._app(scope, receive, send)


def below_root(scope: Scope) -> str:
    """Return the path of a request as the app's routes have it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
