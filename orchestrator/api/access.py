"""Who may do what.

An api key (API_KEYS) is for the user's own backend: it starts calls and sees every session. The client secret of a
session is for a browser: it is valid for that session alone, until a little after its end. The admin token may do
everything. Without API_KEYS the api is open: on loopback, or with OPEN_ACCESS; admin routes never are.
What a caller may not see is answered with 404, as if it did not exist.

`Access.caller` recognizes a client secret by its prefix alone and does not verify it. Only a route about one session
may accept that, and only after `may_see`. Every other route calls `starter`, which ignores such a secret.
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

#: Seconds for which a client secret stays valid after its session's end, so that the reason can be read.
AFTERWARDS_SECONDS = 600
_SECRET_PREFIX = "cs_"  # noqa: S105


class Role(Enum):
    """What a caller's credentials allow."""

    ADMIN = "admin"
    KEY = "key"
    ANYBODY = "anybody"  #: the api is open
    CLIENT = "client"  #: sent what may be a session's client secret; worthless until `Access.may_see` has verified it


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request."""

    role: Role
    secret: str = ""  #: a client secret, not verified yet


class Access:
    """Checks the credentials of one api's callers."""

    def __init__(self, settings: Settings) -> None:
        assert settings.admin_token
        assert settings.livekit_api_secret
        self._admin = _digest(settings.admin_token.get_secret_value())
        self._keys = [_digest(key) for key in settings.keys]
        # Derived, so every api process of one LiveKit project knows the same secrets and none has to be stored.
        self._client_key = hmac.digest(
            settings.livekit_api_secret.get_secret_value().encode(), b"client secret of a session", "sha256"
        )
        self.open = not self._keys
        self._loopback_only = self.open and not settings.open_access
        self._hosts = settings.hosts
        self._trusted_proxy = settings.trusted_proxy
        self._attempts = Attempts()

    def client_secret(self, session_id: str) -> str:
        """Return the secret that the browser of a session sends."""
        mac = hmac.digest(self._client_key, session_id.encode(), "sha256")
        return _SECRET_PREFIX + base64.urlsafe_b64encode(mac).decode().rstrip("=")

    def caller(self, request: Request) -> Caller:
        """Return who sends a request.

        Raises:
            Unauthorized: the credentials are missing or wrong.
            TooManyAttempts: the address has sent too many wrong secrets.
            InvalidHost: the Host header has a name that this api does not serve.
        """
        request.state.operator = False  # problems.py reads it: only the operator sees details of errors
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        secret = secret.strip() if scheme.lower() == "bearer" else ""
        digest = _digest(secret)
        # Every key is compared, so the time that it takes reveals nothing.
        admin, *keys = [hmac.compare_digest(digest, known) for known in (self._admin, *self._keys)]
        # guard: guessed-secret
        if secret and not secret.startswith(_SECRET_PREFIX):
            self._count(request, good=admin or any(keys))
        if admin:
            request.state.operator = True
            return Caller(Role.ADMIN)
        if any(keys):
            return Caller(Role.KEY)
        client = secret.startswith(_SECRET_PREFIX)
        if not self.open and not client:
            raise Unauthorized
        # DNS rebinding by a foreign page, or a proxy that exposes a private api. Neither has a key, so holders of keys
        # need no check.
        self._check_host(request)
        return Caller(Role.CLIENT if client else Role.ANYBODY, secret if client else "")

    def starter(self, request: Request) -> Caller:
        """Return who sends a request that is about no session. A client secret counts for nothing here.

        Raises `Unauthorized`, `TooManyAttempts`, `InvalidHost`.
        """
        caller = self.caller(request)
        if caller.role is not Role.CLIENT:
            return caller
        if self.open:
            return Caller(Role.ANYBODY, caller.secret)
        raise Unauthorized("This needs an api key; a client secret is valid for its own session alone.")

    def began(self, caller: Caller, session_id: str) -> bool:
        """Return whether the caller of a repeated start owns the live session. A backend owns all of them."""
        return caller.role in {Role.ADMIN, Role.KEY} or self._is_secret_of(caller.secret, session_id)

    def _count(self, request: Request, *, good: bool) -> None:
        address = client_address(request, self._trusted_proxy)
        if good and is_loopback_host(address.narrow):
            return  # the node's own programs and its command line are never locked out
        wait = self._attempts.record(address.wide, good=good)
        if wait:
            raise TooManyAttempts(retry_after=wait)

    def _check_host(self, request: Request) -> None:
        # guard: loopback-only
        if not (self._loopback_only or self._hosts):
            return
        name = _host_name(request)
        if is_loopback_host(name.strip("[]")) or _named(name, self._hosts):
            return
        detail = f"This api does not serve the name {name[:100]!r}: add it to ALLOWED_HOSTS"
        raise InvalidHost(detail + (", or set API_KEYS." if self._loopback_only else "."))

    def _is_secret_of(self, secret: str, session_id: str) -> bool:
        # guard: client-secret-session
        return hmac.compare_digest(_digest(secret), _digest(self.client_secret(session_id)))

    def may_see(self, caller: Caller, session_id: str) -> bool:
        """Return whether a caller may see a session."""
        if caller.role is not Role.CLIENT:
            return True
        return self._is_secret_of(caller.secret, session_id)


def _host_name(request: Request) -> str:
    host = request.headers.get("host", "")
    return host.rpartition(":")[0] if host.rpartition("]")[2].count(":") else host


def _named(name: str, hosts: tuple[str, ...]) -> bool:
    name = name.lower().rstrip(".")
    return any(name == host or (host.startswith("*.") and name.endswith(host[1:])) for host in hosts)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
