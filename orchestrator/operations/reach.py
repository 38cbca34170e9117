"""Whether callers can reach the LiveKit address that they are given. Without this check their calls just fail."""

import ipaddress
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from orchestrator.machine.loopback import is_loopback
from orchestrator.settings import Settings

#: Names that resolve only near this machine: in Kubernetes, in Docker, in platforms' private networks.
_INSIDE = (".svc", ".cluster.local", ".internal")


def troubles(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield which callers cannot reach LiveKit by the address that they are given, and what to set."""
    embedded = environ.get("EMBEDDED_LIVEKIT") == "true" or not settings.livekit_url
    url = settings.livekit_public_url or settings.livekit_url or f"ws://127.0.0.1:{settings.livekit_port}"
    host = urlsplit(url).hostname or ""
    if _is_unspecified(host):
        yield f"callers are given LiveKit's address as {url}, which is nobody's: set LIVEKIT_PUBLIC_URL"
    elif why := _from_elsewhere(settings):
        if embedded:
            yield (
                f"{why}: callers from elsewhere are given {url}, and the embedded LiveKit server serves this machine "
                "alone. Set LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET to a server that they reach "
                "(LIVEKIT_PUBLIC_URL, where they reach it by another address than this node)"
            )
        elif not settings.livekit_public_url and is_loopback(url):
            yield (
                f"{why}: callers from elsewhere are given {url} as LiveKit's address, which is their own machine. "
                "Set LIVEKIT_PUBLIC_URL to the address at which they reach it"
            )
        elif not settings.livekit_public_url and _is_inside(host):
            yield (
                f"{why}: callers from elsewhere are given {url} as LiveKit's address, a name that is known in here "
                "alone. Set LIVEKIT_PUBLIC_URL to the address at which they reach it, this one if they do"
            )
    pages = [origin for origin in settings.origins if origin.startswith("https://")]
    if url.startswith(("ws://", "http://")) and pages and not is_loopback(url):
        yield (
            f"callers are given {url} as LiveKit's address, and a browser lets no page of {pages[0]} connect there. "
            "Give LiveKit TLS, and set LIVEKIT_PUBLIC_URL to its wss:// address"
        )


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
