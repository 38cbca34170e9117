"""Who may do what.

An api key (API_KEYS) is the word of the user's own backend: it starts calls and sees every session. The client secret
of a session is for a browser: it is good for that session alone, until a little after its end. The admin token may do
everything. Without API_KEYS the api is open: on loopback, or where OPEN_ACCESS says so; admin routes never are.
What a caller may not see does not exist for them: 404, whatever it is.

`Access.caller` names a client by the look of its secret alone; only a route about one session may take that, and only
after `may_see`. Every other route asks `starter`, for whom such a secret is no credential.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from enum import Enum

from fastapi import Request

from orchestrator.api.addresses import client_address
from orchestrator.api.attempts import Attempts
from orchestrator.errors import InvalidHost, TooManyAttempts, Unauthorized
from orchestrator.machine.loopback import is_loopback_host
from orchestrator.settings import Settings

#: Seconds for which a client secret is good after its session's end: for its reason to be read.
AFTERWARDS_SECONDS = 600
_SECRET_PREFIX = "cs_"  # noqa: S105


class Role(Enum):
    """What a caller has shown."""

    ADMIN = "admin"
    KEY = "key"
    ANYBODY = "anybody"  #: the api is open
    CLIENT = "client"  #: shows what may be a session's client secret: good for nothing before `Access.may_see`


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request."""

    role: Role
    shown: str = ""


class Access:
    """Knows the keys of one api."""

    def __init__(self, settings: Settings) -> None:
        assert settings.admin_token
        assert settings.livekit_api_secret
        self._admin = _digest(settings.admin_token.get_secret_value())
        self._keys = [_digest(key) for key in settings.keys]
        # Every api process that shares the LiveKit project makes the same secrets, and none is kept anywhere.
        self._client_key = hmac.digest(
            settings.livekit_api_secret.get_secret_value().encode(), b"client secret of a session", "sha256"
        )
        self.open = not self._keys
        self._loopback_only = self.open and not settings.open_access
        self._hosts = settings.hosts
        self._trusted_proxy = settings.trusted_proxy
        self._attempts = Attempts()

    def client_secret(self, session_id: str) -> str:
        """Return what the browser of a session shows."""
        mac = hmac.digest(self._client_key, session_id.encode(), "sha256")
        return _SECRET_PREFIX + base64.urlsafe_b64encode(mac).decode().rstrip("=")

    def caller(self, request: Request) -> Caller:
        """Return who sends a request.

        Raises:
            Unauthorized: nobody that we know.
            TooManyAttempts: the address has shown too many secrets that are none.
            InvalidHost: a page, or a proxy, asks for this api by a name that it does not serve.
        """
        request.state.operator = False  # until it is known better: what an error may say of itself (problems.py)
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        shown = shown.strip() if scheme.lower() == "bearer" else ""
        digest = _digest(shown)
        # No early end: how long it takes says nothing about which key it was.
        admin, *keys = [hmac.compare_digest(digest, known) for known in (self._admin, *self._keys)]
        if shown and not shown.startswith(_SECRET_PREFIX):
            self._count(request, good=admin or any(keys))
        if admin:
            request.state.operator = True
            return Caller(Role.ADMIN)
        if any(keys):
            return Caller(Role.KEY)
        client = shown.startswith(_SECRET_PREFIX)
        if not self.open and not client:
            raise Unauthorized
        # A page of a stranger that has its name resolved to 127.0.0.1, or a proxy that makes it public. Neither has a
        # key, which is why nobody above is asked.
        self._check_host(request)
        return Caller(Role.CLIENT if client else Role.ANYBODY, shown if client else "")

    def starter(self, request: Request) -> Caller:
        """Return who sends a request that is about no session. A client secret makes nobody more than they are without.

        Raises `Unauthorized`, `TooManyAttempts`, `InvalidHost`.
        """
        caller = self.caller(request)
        if caller.role is not Role.CLIENT:
            return caller
        if self.open:
            return Caller(Role.ANYBODY, caller.shown)
        raise Unauthorized("This needs an api key; a client secret is good for its own session alone.")

    def began(self, caller: Caller, session_id: str) -> bool:
        """Return whether whoever starts again shows that a live session is theirs. A backend's word is enough."""
        return caller.role in {Role.ADMIN, Role.KEY} or self._is_secret_of(caller.shown, session_id)

    def _count(self, request: Request, *, good: bool) -> None:
        address = client_address(request, self._trusted_proxy)
        if good and is_loopback_host(address.narrow):
            return  # the node's own drain and command line are never locked out
        wait = self._attempts.shown(address.wide, good=good)
        if wait:
            raise TooManyAttempts(retry_after=wait)

    def _check_host(self, request: Request) -> None:
        if not (self._loopback_only or self._hosts):
            return
        name = _host_name(request)
        if is_loopback_host(name.strip("[]")) or _named(name, self._hosts):
            return
        told = f"This api does not serve the name {name[:100]!r}: add it to ALLOWED_HOSTS"
        raise InvalidHost(told + (", or set API_KEYS." if self._loopback_only else "."))

    def _is_secret_of(self, shown: str, session_id: str) -> bool:
        return hmac.compare_digest(_digest(shown), _digest(self.client_secret(session_id)))

    def may_see(self, caller: Caller, session_id: str) -> bool:
        """Return whether a session is a caller's business."""
        if caller.role is not Role.CLIENT:
            return True
        return self._is_secret_of(caller.shown, session_id)


def _host_name(request: Request) -> str:
    host = request.headers.get("host", "")
    return host.rpartition(":")[0] if host.rpartition("]")[2].count(":") else host


def _named(name: str, hosts: tuple[str, ...]) -> bool:
    name = name.lower().rstrip(".")
    return any(name == host or (host.startswith("*.") and name.endswith(host[1:])) for host in hosts)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
