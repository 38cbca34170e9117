"""Whether callers can reach the LiveKit address that they are given. Without this check their calls just fail."""

import ipaddress
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from orchestrator.machine.loopback import is_loopback
from orchestrator.reasons import HealthWarning, warn
from orchestrator.settings import Settings

#: Names that resolve only near this machine: in Kubernetes, in Docker, in platforms' private networks.
_INSIDE = (".svc", ".cluster.local", ".internal")


def troubles(settings: Settings, environ: Mapping[str, str]) -> Iterator[HealthWarning]:
    """Yield which callers cannot reach LiveKit by the address that they are given, and what to set."""
    embedded = environ.get("EMBEDDED_LIVEKIT") == "true" or not settings.livekit_url
    url = settings.livekit_public_url or settings.livekit_url or f"ws://127.0.0.1:{settings.livekit_port}"
    host = urlsplit(url).hostname or ""
    if _is_unspecified(host):
        yield warn("livekit_address_unspecified", address=url)
    elif setting := _from_elsewhere(settings):
        if embedded:
            yield warn("livekit_embedded", setting=setting, address=url)
        elif not settings.livekit_public_url and is_loopback(url):
            yield warn("livekit_address_loopback", setting=setting, address=url)
        elif not settings.livekit_public_url and _is_inside(host):
            yield warn("livekit_address_private", setting=setting, address=url)
    pages = [origin for origin in settings.origins if origin.startswith("https://")]
    if url.startswith(("ws://", "http://")) and pages and not is_loopback(url):
        yield warn("livekit_address_insecure", address=url, origin=pages[0])


def _from_elsewhere(settings: Settings) -> str | None:
    """Return the setting that lets callers on other machines in; None if there is none."""
    if not settings.loopback:
        return f"HOST={settings.host}"
    if settings.trusted_proxy:
        return f"TRUSTED_PROXY={settings.trusted_proxy}"
    if name := next((name for name in settings.hosts if not is_loopback(f"//{name}")), None):
        return f"ALLOWED_HOSTS names {name}"
    return None


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_inside(host: str) -> bool:
    if ":" in host:
        return False
    return "." not in host or host.rstrip(".").endswith(_INSIDE)
