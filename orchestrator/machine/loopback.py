"""Addresses of this machine. Requests to them must not use the proxy of HTTP_PROXY."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(url: str) -> bool:
    """Return whether a URL's host is this machine, judged by its name or address."""
    return is_loopback_host((urlsplit(url).hostname or "").rstrip(".").partition("%")[0])


def is_loopback_host(host: str) -> bool:
    """Return the same for a name, or for an address without brackets and zone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def bracketed(host: str) -> str:
    """Return a host as a URL contains it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
