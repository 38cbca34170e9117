"""Every request has an id, which its answer, its lines in the log and its tasks carry, and one line of its own."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator import logs

log = logging.getLogger("orchestrator.access")

HEADER = "X-Request-Id"
#: Those that come every few seconds are not worth a line.
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})
#: What is accepted from a caller: nothing that a log or a header could be forged with.
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
        # Not ended here: what is answered to an unexpected error is written further out, by the same task.
        facts = logs.begin(request_id=request_id)

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, answered)
        finally:
            route = scope.get("route")
            path = getattr(route, "path_format", "-")
            if session_id := scope.get("path_params", {}).get("session_id"):
                facts.setdefault("session_id", str(session_id))
            if path not in _QUIET or status >= 400:
                ms = round((time.perf_counter() - began) * 1000, 1)
                told = {"method": scope["method"], "path": path, "status": status, "ms": ms}
                log.info("request", extra=told)


def _request_id(headers: Headers) -> str:
    given = headers.get(HEADER) or headers.get("x-railway-request-id") or ""
    return given if _SANE.fullmatch(given) else uuid.uuid4().hex
