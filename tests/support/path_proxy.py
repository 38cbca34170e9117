"""A reverse proxy that serves a node below a path, for a host name that several programs share.

It forwards requests with or without the path's prefix. A request outside the path is not for the node: it is answered
with 404 and recorded in `strays`.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import httpx
import uvicorn
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tests.support.processes import free_ports

#: Hop-by-hop headers: not forwarded.
_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade"}


class PathProxy:
    """Serves `target` below `prefix`, on its own port and in its own thread."""

    def __init__(self, target: str, prefix: str, *, strip: bool) -> None:
        self._target, self._prefix, self._strip = target, prefix, strip
        self.origin = f"http://127.0.0.1:{free_ports()}"
        self.url = self.origin + prefix
        #: Requests outside the path.
        self.strays: list[str] = []
        #: (method, requested path, status) of all others.
        self.passed: list[tuple[str, str, int]] = []

    def __enter__(self) -> Self:
        started = threading.Event()

        async def serve() -> None:
            async with httpx.AsyncClient(base_url=self._target, timeout=None, trust_env=False) as self._client:
                port = int(self.origin.rpartition(":")[2])
                config = uvicorn.Config(
                    self._app,
                    interface="asgi3",
                    host="127.0.0.1",
                    port=port,
                    lifespan="off",
                    log_config=None,
                    timeout_graceful_shutdown=1,
                )
                self._server = uvicorn.Server(config)
                serving = asyncio.create_task(self._server.serve())
                while not self._server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.01)
                started.set()
                await serving

        self._thread = threading.Thread(target=asyncio.run, args=(serve(),), name="path-proxy")
        self._thread.start()
        assert started.wait(60)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive(), "the proxy's thread hangs"

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        asked = scope["raw_path"].decode()
        inside = asked == self._prefix or asked.startswith(f"{self._prefix}/")
        answer = await self._forwarded(request, asked) if inside else self._stray(asked)
        await answer(scope, receive, send)

    def _stray(self, asked: str) -> Response:
        self.strays.append(asked)
        return PlainTextResponse("another program", 404)

    async def _forwarded(self, request: Request, asked: str) -> Response:
        path = (asked.removeprefix(self._prefix) or "/") if self._strip else asked
        query = request.scope["query_string"].decode()
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOP]
        sent = self._client.build_request(
            request.method, path + (f"?{query}" if query else ""), headers=headers, content=await request.body()
        )
        found = await self._client.send(sent, stream=True)
        self.passed.append((request.method, asked, found.status_code))

        async def body() -> AsyncIterator[bytes]:
            async for piece in found.aiter_raw():
                yield piece

        answer = StreamingResponse(body(), found.status_code, background=BackgroundTask(found.aclose))
        answer.raw_headers = [
            (name.lower(), value) for name, value in found.headers.raw if name.lower().decode() not in _HOP
        ]
        return answer
