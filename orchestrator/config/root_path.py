"""ROOT_PATH: the path under which a reverse proxy serves a node."""

import re

#: The api's own paths. ROOT_PATH must not be one of them, nor a part of one, because a request may come with ROOT_PATH
#: or without it.
OWN = tuple(
    "/api/agents /api/breaker /api/health /api/livekit /api/nodes /api/pool /api/reasons /api/session /api/sessions "
    "/api/status /api/token /assets /docs /favicon.svg /livez /metrics /openapi.json /readyz /status /web".split()
)
_LONGEST = 200


def parse_root_path(value: str) -> str:
    """Return ROOT_PATH unchanged. Raises ValueError if a node cannot be served under it."""
    if not value:
        return value
    if not value.startswith("/") or value.startswith("//"):
        raise ValueError("write the path alone, with one slash before it and without scheme and host, as /voice")
    if value.endswith("/"):
        raise ValueError(f"write it without the slash at its end: {value.rstrip('/') or 'leave it empty for /'}")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value) or len(value) > _LONGEST:
        raise ValueError(
            f"at most {_LONGEST} letters, digits and . _ ~ - between single slashes make a path, as /voice"
        )
    if {".", ".."} & set(value.split("/")):
        raise ValueError("no part of it may be . or .., which browsers resolve: write the path that they request")
    # guard: own-paths
    for own in OWN:
        if f"{own}/".startswith(f"{value}/") or value.startswith(f"{own}/"):
            raise ValueError(f"the api itself has {own}: take another path, as /voice")
    return value
