"""Turns every error into `application/problem+json` (RFC 9457) with `success: false`.

Only the holder of ADMIN_TOKEN gets the full `detail`. Other callers get it when it is about their request, else a fixed
sentence (caller_words.py). The operator finds the full detail in the log, under the request's id.
"""

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api import caller_words
from orchestrator.api.access import Role
from orchestrator.api.below import below_root
from orchestrator.api.schemas.problem import Problem
from orchestrator.errors import OrchestratorError, RateLimited
from orchestrator.logs import request_id

log = logging.getLogger("orchestrator.api")

#: Most errors in one answer, and the most characters of a field's name and of a message in it.
ERRORS, NAME, MESSAGE = 10, 100, 300


def problem(
    request: Request, status: int, code: str, detail: str, *, retry_after: float | None = None, **extra: Any
) -> JSONResponse:
    """Return one problem as a response."""
    seconds = None if retry_after is None else max(1, math.ceil(retry_after))
    body = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, code=code, instance=request.url.path,
        retryAfter=seconds, requestId=request_id() or None, **extra,
    )  # fmt: skip
    # An unexpected error is answered outside the middleware that adds the request id to every other answer.
    headers = {"X-Request-Id": request_id()} if request_id() else {}
    if seconds is not None:
        headers["Retry-After"] = str(seconds)
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    content = body.model_dump(exclude_none=True)
    return JSONResponse(content, status, headers=headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Answer every error as a problem."""

    @app.exception_handler(OrchestratorError)
    async def answer_known(request: Request, failure: OrchestratorError) -> JSONResponse:
        detail = failure.detail
        if not failure.about_request:
            level = logging.ERROR if failure.status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.INFO
            log.log(level, "request failed", extra={"path": request.url.path, "code": failure.code, "cause": detail})
            # guard: error-detail
            detail = detail if _is_operator(request) else caller_words.problem(failure.code)
        extra = _warning_codes(request, failure)
        answer = problem(request, failure.status, failure.code, detail, retry_after=failure.retry_after, **extra)
        if isinstance(failure, RateLimited):
            # draft-ietf-httpapi-ratelimit-headers: the quota and its window, its remainder, and when it is reset.
            rate = app.state.services.settings.rate
            answer.headers["RateLimit-Policy"] = f'"start";q={rate.amount};w={rate.get_expiry()}'
            answer.headers["RateLimit"] = f'"start";r=0;t={answer.headers["Retry-After"]}'
        return answer

    @app.exception_handler(RequestValidationError)
    async def answer_malformed(request: Request, failure: RequestValidationError) -> JSONResponse:
        rows = failure.errors()
        # guard: error-count
        errors = [_message(row) for row in rows[:ERRORS]]
        if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
            errors = [{"field": "body", "message": "send it as JSON, with the header Content-Type: application/json"}]
        detail = "; ".join(f"{row['field']}: {row['message']}" for row in errors)
        if len(rows) > len(errors) > 1:
            detail += f"; and {len(rows) - len(errors)} more"
        return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, "malformed_request", detail, errors=errors)

    @app.exception_handler(HTTPException)
    async def http(request: Request, failure: HTTPException) -> JSONResponse:
        code = HTTPStatus(failure.status_code).phrase.lower().replace(" ", "_")
        detail = str(failure.detail)
        if failure.status_code == HTTPStatus.NOT_FOUND and request.url.path.endswith("/"):
            detail = "There is nothing here; use the path without the trailing slash."
        answer = problem(request, failure.status_code, code, detail)
        answer.headers.update(failure.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def unknown(request: Request, failure: Exception) -> JSONResponse:
        log.exception("unexpected error", extra={"path": request.url.path})
        detail = f"An unexpected error, which is in the api's log: {failure!r}"
        # guard: unexpected-error-detail
        detail = detail if _is_operator(request) else caller_words.problem("internal_error")
        return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", detail)


def _warning_codes(request: Request, failure: OrchestratorError) -> dict[str, Any]:
    """Return the warnings within the detail as the operator gets them."""
    # guard: caller-warning-codes
    codes = [each.as_json() for each in failure.warnings if _is_operator(request)]
    return {"warningCodes": codes} if codes else {}


def _is_operator(request: Request) -> bool:
    """Return whether the caller has sent the admin token."""
    answer_known: bool | None = getattr(request.state, "operator", None)
    if (
        answer_known is None
    ):  # no route has checked yet; a wrong token counts as an attempt, or tokens could be guessed here
        try:
            answer_known = bool(request.app.state.services.access.caller(request).role is Role.ADMIN)
        except (OrchestratorError, AttributeError):  # the last: the api is only starting
            answer_known = False
    return answer_known


def _message(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a field and what is wrong with it."""
    if row["type"] == "json_invalid":
        return {"field": "body", "message": f"is not JSON: {row['ctx']['error']}, at character {row['loc'][-1]}"}
    field = ".".join(_cut(str(part), NAME) for part in row["loc"][1:9]) or str(row["loc"][0])
    message = _cut(row["msg"].removeprefix("Value error, "), MESSAGE)
    message = "unknown field; leave it out" if row["type"] == "extra_forbidden" else message
    return {"field": _cut(field, MESSAGE), "message": message}


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class BodyLimit:
    """Refuses bodies above a size, declared or not, with a problem. FastAPI's own limit answers in plain text.

    Args:
        larger: the size of paths that may take more.
    """

    def __init__(self, app: ASGIApp, limit: int, larger: Mapping[str, int] | None = None) -> None:
        self._app, self._limit, self._larger = app, limit, larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it is too large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._larger.get(below_root(scope), self._limit)
        too_large = HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {limit} bytes.")
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdigit() or int(declared) > limit:
            request = Request(scope)
            answer = problem(request, too_large.status_code, "body_too_large", too_large.detail)
            await answer(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise too_large
            return message

        await self._app(scope, counted, send)


CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "The request is refused; `detail` says why and what to do."},
    "5XX": {"model": Problem, "description": "The node cannot serve it now; see `Retry-After`."},
}
