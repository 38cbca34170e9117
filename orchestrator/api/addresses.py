"""Where a request comes from, by which networks limits count it, and which proxies are trusted."""

import ipaddress
from functools import cache
from typing import NamedTuple

from fastapi import Request


class Address(NamedTuple):
    """What limits count a client by.

    One IPv6 client has the 2^64 addresses of its network, and often a whole /48. `narrow` is the /64 and `wide` the
    /48, of which limits allow four times as much; for IPv4 both are the address.
    """

    narrow: str
    wide: str


def client_address(request: Request, trusted: str) -> Address:
    """Return where a request comes from.

    Headers count only from a proxy that TRUSTED_PROXY names: any other client could choose its address with them.
    """
    # guard: peer-address
    peer = request.client.host if request.client else ""
    forwarded = _forwarded(request, peer, trusted) if trusted else None
    return _counted(forwarded or _parsed(peer))


def counted(text: str) -> Address:
    """Return what an address is counted by, without regard to proxies."""
    return _counted(_parsed(text))


def is_proxy(text: str, trusted: str) -> bool:
    """Return whether an address is that of a proxy that TRUSTED_PROXY names."""
    if trusted == "railway":
        return True  # only its edge reaches a container from outside
    address = _parsed(text)
    return address is not None and any(address in network for network in _networks(trusted))


_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def _forwarded(request: Request, peer: str, trusted: str) -> _Ip | None:
    real = _parsed(request.headers.get("x-real-ip", ""))
    if trusted == "railway":
        # Its edge overwrites this header; its X-Forwarded-For ends with an address that changes with each request.
        return real
    if not is_proxy(peer, trusted):
        return None
    hops = [hop for value in request.headers.getlist("x-forwarded-for") for hop in value.split(",")]
    # From the nearest hop on. Everything left of the first untrusted hop was sent by that hop.
    for hop in reversed(hops):
        if not is_proxy(hop, trusted):
            return _parsed(hop)
    return real


def _parsed(text: str) -> _Ip | None:
    """Return an address as proxies write it: some with a port, in brackets, quoted. IPv4 within IPv6 is IPv4."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _counted(address: _Ip | None) -> Address:
    if isinstance(address, ipaddress.IPv6Address):
        narrow, wide = (ipaddress.ip_network((address, bits), strict=False) for bits in (64, 48))
        return Address(str(narrow), str(wide))
    return Address(*[str(address or "unknown")] * 2)


@cache
def _networks(trusted: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(text.strip()) for text in trusted.split(",") if text.strip())
