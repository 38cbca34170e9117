"""Who may do what.

An api key (API_KEYS) is the word of the user's own backend: it starts calls and sees every session. The client secret
of a session is for a browser: it is good for that session alone, until a little after its end. The admin token may do
everything. Without API_KEYS the api is open: on loopback, or where OPEN_ACCESS says so; admin routes never are.
What a caller may not see does not exist for them: 404, whatever it is.
"""

import base64
import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from enum import Enum
from functools import cache

from fastapi import Request

from orchestrator.errors import InvalidHost, Unauthorized
from orchestrator.settings import Settings

#: Seconds for which a client secret is good after its session's end: for its reason to be read.
AFTERWARDS_SECONDS = 600
_SECRET_PREFIX = "cs_"  # noqa: S105


class Role(Enum):
    """What a caller has shown."""

    ADMIN = "admin"
    KEY = "key"
    ANYBODY = "anybody"  #: the api is open
    CLIENT = "client"  #: shows what may be a session's client secret


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

    def client_secret(self, session_id: str) -> str:
        """Return what the browser of a session shows."""
        mac = hmac.digest(self._client_key, session_id.encode(), "sha256")
        return _SECRET_PREFIX + base64.urlsafe_b64encode(mac).decode().rstrip("=")

    def caller(self, request: Request) -> Caller:
        """Return who sends a request.

        Raises:
            Unauthorized: nobody that we know.
            InvalidHost: the api is open on loopback alone, and something passes requests on to it.
        """
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        shown = shown.strip() if scheme.lower() == "bearer" else ""
        digest = _digest(shown)
        # No early end: how long it takes says nothing about which key it was.
        admin, *keys = [hmac.compare_digest(digest, known) for known in (self._admin, *self._keys)]
        if admin:
            return Caller(Role.ADMIN)
        if any(keys):
            return Caller(Role.KEY)
        if shown.startswith(_SECRET_PREFIX):
            return Caller(Role.CLIENT, shown)
        if not self.open:
            raise Unauthorized
        # A page of a stranger that has its name resolved to 127.0.0.1, or a proxy that makes it public.
        if self._loopback_only and not _is_loopback(name := _host_name(request)):
            raise InvalidHost(
                f"This api is open on loopback only and was asked for as {name}: set API_KEYS, or OPEN_ACCESS=true."
            )
        return Caller(Role.ANYBODY)

    def starter(self, request: Request) -> Caller:
        """Return who sends a request that is not for browsers with a session. Raises `Unauthorized`, `InvalidHost`."""
        caller = self.caller(request)
        if caller.role is Role.CLIENT:
            raise Unauthorized("This needs an api key; a client secret is good for its own session alone.")
        return caller

    def may_see(self, caller: Caller, session_id: str) -> bool:
        """Return whether a session is a caller's business."""
        if caller.role is not Role.CLIENT:
            return True
        return hmac.compare_digest(_digest(caller.shown), _digest(self.client_secret(session_id)))


def client_address(request: Request, trusted: str) -> str:
    """Return what rate limits count by: the client's address; for IPv6 its /64, which is one household.

    A header's word counts only from a proxy that TRUSTED_PROXY names: whoever else sends it would choose the address.
    """
    peer = request.client.host if request.client else ""
    return _bucket(_told_by_proxy(request, peer, trusted) if trusted else peer)


def _told_by_proxy(request: Request, peer: str, trusted: str) -> str:
    if trusted == "railway":
        # Its edge overwrites this header; its X-Forwarded-For ends with an address that changes with each request.
        return request.headers.get("x-real-ip", "").strip() or peer
    networks = _networks(trusted)

    def known(text: str) -> bool:
        try:
            return any(ipaddress.ip_address(text) in network for network in networks)
        except ValueError:
            return False

    if not known(peer):
        return peer
    hops = [hop.strip() for value in request.headers.getlist("x-forwarded-for") for hop in value.split(",")]
    # From the nearest on: what stands left of the first stranger is that stranger's own word.
    for hop in reversed(hops):
        if not known(hop):
            return hop or peer
    return request.headers.get("x-real-ip", "").strip() or peer


@cache
def _networks(trusted: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(text.strip()) for text in trusted.split(",") if text.strip())


def _bucket(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text[:64]
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _host_name(request: Request) -> str:
    host = request.headers.get("host", "")
    return host.rpartition(":")[0] if host.rpartition("]")[2].count(":") else host


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
