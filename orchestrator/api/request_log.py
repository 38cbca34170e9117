"""Gives every request an id, which its answer, its log lines and its Celery tasks carry, and logs one line for it."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator import logs

log = logging.getLogger("orchestrator.access")

HEADER = "X-Request-Id"
#: Routes that are polled every few seconds are not logged.
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})
#: Ids that are accepted from a caller: without characters that could forge a log line or a header.
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class RequestLog:
    """Gives each request its id, and logs it when it is over."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        request_id = _request_id(Headers(scope=scope))
        # Not ended here: the answer to an unexpected error is written further out, by the same task.
        facts = logs.begin(request_id=request_id)

        async def with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, with_id)
        finally:
            route = scope.get("route")
            path = getattr(route, "path_format", "-")
            if session_id := scope.get("path_params", {}).get("session_id"):
                facts.setdefault("session_id", str(session_id))
            if path not in _QUIET or status >= 400:
                ms = round((time.perf_counter() - began) * 1000, 1)
                fields = {"method": scope["method"], "path": path, "status": status, "ms": ms}
                log.info("request", extra=fields)


def _request_id(headers: Headers) -> str:
    request_id = headers.get(HEADER) or headers.get("x-railway-request-id") or ""
    return request_id if _SANE.fullmatch(request_id) else uuid.uuid4().hex
