"""Addresses of this machine: no proxy stands in front of them, whatever HTTP_PROXY says."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(url: str) -> bool:
    """Return whether a URL's host is this machine, as far as its name says so."""
    return is_loopback_host((urlsplit(url).hostname or "").rstrip(".").partition("%")[0])


def is_loopback_host(host: str) -> bool:
    """Return the same of a name, or of an address without brackets and zone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def bracketed(host: str) -> str:
    """Return a host as it stands in a URL: an address of IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
