"""Checks before a route: who calls, how often, and how much a body may hold. FastAPI alone would read the body first.

Credentials and rate limits are checked before a byte of the body is read; a body's depth and number of values are
counted before anything recurses into it.
"""

import contextlib
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from limits import RateLimitItem
from starlette.requests import ClientDisconnect

from orchestrator.api.access import Caller, Role
from orchestrator.api.addresses import Address, client_address
from orchestrator.errors import InvalidRequest, RateLimited, StoreUnavailable
from orchestrator.settings import Settings

#: Largest depth of a JSON body and number of values in it: somewhat more than fits into the metadata of a start.
DEPTH, VALUES = 64, 2000
#: Longest Idempotency-Key; and the length from which on one cannot be guessed.
KEY_CHARACTERS, UNGUESSABLE = 255, 20
#: Addresses that are remembered as being over a limit.
REMEMBERED = 10_000

#: Until when (by the monotonic clock) an address is over a limit, and the message: `app.state.over_limit`.
OverLimit = dict[tuple[str, Address], tuple[float, str]]
Check = Callable[[Request], Awaitable[Caller | None]]

# Each string in JSON as one match, an unterminated one too, so that one pass is enough.
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


class Limit:
    """A rate limit by address, for callers without credentials. Redis counts; this remembers which it has refused.

    Args:
        what: the name under which Redis counts.
        rate: the setting.
    """

    def __init__(self, what: str, rate: Callable[[Settings], RateLimitItem]) -> None:
        self._what, self._rate = what, rate

    async def refuse(self, request: Request) -> None:
        """Raise `RateLimited` while an address is over the limit, unless its request repeats one that was answered."""
        services = request.app.state.services
        until, address = request.app.state.over_limit, (self._what, _address(request))
        end, limit = until.get(address, (0.0, ""))
        remaining = end - time.monotonic()
        if remaining <= 0:
            until.pop(address, None)
            return
        key = idempotency_key(request, trusted=False)
        if key and await services.store.session_of_job(key):
            return
        raise RateLimited(limit, retry_after=remaining)

    async def count(self, request: Request) -> None:
        """Count a request that was refused because of its body. Raises `RateLimited`."""
        services = request.app.state.services
        rate = self._rate(services.settings)
        with contextlib.suppress(StoreUnavailable):
            wait = await services.store.take_rate_limit(
                self._what, *_address(request), rate.amount, rate.get_expiry() * 1000
            )
            if wait:
                failure = RateLimited("Too many requests from this address", retry_after=wait)
                self.remember(request, failure)
                raise failure

    def remember(self, request: Request, failure: RateLimited) -> None:
        """Remember an address that was refused."""
        until: OverLimit = request.app.state.over_limit
        while len(until) >= REMEMBERED:
            del until[next(iter(until))]
        until[self._what, _address(request)] = time.monotonic() + (failure.retry_after or 0.0), failure.limit


class Gated(APIRoute):
    """A route with a check before it. `gated` makes the class for one check."""

    check: ClassVar[Check]
    limit: ClassVar[Limit | None] = None

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's own handler behind the check."""
        plain, check, limit = super().get_route_handler(), type(self).check, type(self).limit
        with_body = self.body_field is not None

        async def handler(request: Request) -> Response:
            # guard: credentials-before-body
            caller = request.state.caller = await check(request)
            limited = limit if caller and caller.role is Role.ANYBODY else None
            if limited:
                await limited.refuse(request)
            try:
                if with_body:
                    # guard: body-depth
                    bound(await _body(request))
                return await plain(request)
            except RequestValidationError:
                if limited:
                    await limited.count(request)
                raise
            except RateLimited as failure:
                if limited:
                    limited.remember(request, failure)
                raise

        return handler


def idempotency_key(request: Request, *, trusted: bool) -> str:
    """Return the name under which a request's Idempotency-Key is kept; '' when it has none. It is a hash, so that no
    header collides with our own keys. A short key, which can be guessed, counts for its own address only.

    Raises:
        InvalidRequest: it is too long, or not printable.
    """
    key = request.headers.get("idempotency-key", "")
    if len(key) > KEY_CHARACTERS or not key.isprintable():
        raise InvalidRequest("Idempotency-Key: send 1 to 255 printable characters, a random UUID for example.")
    if not key:
        return ""
    scope = _address(request).narrow if not trusted and len(key) < UNGUESSABLE else ""
    # guard: key-scope
    return hashlib.sha256(f"{scope}\n{key}".encode()).hexdigest()


def gated(check: Check, limit: Limit | None = None) -> type[Gated]:
    """Return a class of routes with a check before each."""
    return type("GatedRoute", (Gated,), {"check": staticmethod(check), "limit": limit})


def bound(body: bytes) -> None:
    """Raise `RequestValidationError` for JSON that is deeper, or has more values, than any accepted body."""
    if body.count(b"[") + body.count(b"{") + body.count(b",") <= DEPTH:
        return
    bare = _STRINGS.sub(b"", body)
    if bare.count(b",") + bare.count(b"[") + bare.count(b"{") > VALUES:
        raise _malformed(f"it has more than {VALUES} values; send less")
    depth = 0
    for bracket in _BRACKETS.findall(bare):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH:
            raise _malformed(f"it is nested more than {DEPTH} deep; send it flatter")


async def _body(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The body ended early.") from None


def _malformed(message: str) -> RequestValidationError:
    return RequestValidationError([{"type": "bound", "loc": ("body",), "msg": message, "input": None}])


def _address(request: Request) -> Address:
    return client_address(request, request.app.state.services.settings.trusted_proxy)
