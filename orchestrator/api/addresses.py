"""Where a request comes from, what that is counted by, and whose word for it counts."""

import ipaddress
from functools import cache
from typing import NamedTuple

from fastapi import Request


class Address(NamedTuple):
    """What limits count a client by.

    Whoever has one IPv6 address has the 2^64 of its network, and often a whole /48: one home, office or machine for
    hire. `wide` is that network, of which limits allow four times as much; for IPv4 both are the address.
    """

    narrow: str
    wide: str


def client_address(request: Request, trusted: str) -> Address:
    """Return where a request comes from.

    A header's word counts only from a proxy that TRUSTED_PROXY names: whoever else sends it would choose the address.
    """
    peer = request.client.host if request.client else ""
    found = _told_by_proxy(request, peer, trusted) if trusted else _parsed(peer)
    return _counted(found or _parsed(peer))


def counted(text: str) -> Address:
    """Return what an address is counted by, without a proxy's word."""
    return _counted(_parsed(text))


def is_proxy(text: str, trusted: str) -> bool:
    """Return whether an address is that of a proxy that TRUSTED_PROXY names."""
    if trusted == "railway":
        return True  # nothing but its edge reaches a container from outside
    found = _parsed(text)
    return found is not None and any(found in network for network in _networks(trusted))


_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def _told_by_proxy(request: Request, peer: str, trusted: str) -> _Ip | None:
    real = _parsed(request.headers.get("x-real-ip", ""))
    if trusted == "railway":
        # Its edge overwrites this header; its X-Forwarded-For ends with an address that changes with each request.
        return real
    if not is_proxy(peer, trusted):
        return None
    hops = [hop for value in request.headers.getlist("x-forwarded-for") for hop in value.split(",")]
    # From the nearest on: what stands left of the first stranger is that stranger's own word.
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
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found.sixtofour or found) if isinstance(found, ipaddress.IPv6Address) else found


def _counted(found: _Ip | None) -> Address:
    if isinstance(found, ipaddress.IPv6Address):
        narrow, wide = (ipaddress.ip_network((found, bits), strict=False) for bits in (64, 48))
        return Address(str(narrow), str(wide))
    return Address(*[str(found or "unknown")] * 2)


@cache
def _networks(trusted: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(text.strip()) for text in trusted.split(",") if text.strip())
