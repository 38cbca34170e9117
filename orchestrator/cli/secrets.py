"""Generated secrets of a node: made once, kept with mode 0600, so that the node finds its state again."""

import contextlib
import json
import os
import secrets
from pathlib import Path

from orchestrator.errors import Preflight


def kept(path: Path) -> dict[str, str]:
    """Return the secrets that have been generated here, none where there are none."""
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, str] = json.loads(path.read_text())
        return found
    return {}


def generated(path: Path) -> dict[str, str]:
    """Return ADMIN_TOKEN, LIVEKIT_API_KEY and LIVEKIT_API_SECRET of this node, made at the first call.

    Raises:
        Preflight: the file cannot be read or written.
    """
    try:
        if path.exists():
            found: dict[str, str] = json.loads(path.read_text())
            return found
        fresh = {
            "ADMIN_TOKEN": secrets.token_urlsafe(24),
            "LIVEKIT_API_KEY": "API" + secrets.token_hex(8),
            "LIVEKIT_API_SECRET": secrets.token_urlsafe(48),
        }
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(fresh, file)
    except (OSError, ValueError) as failure:
        raise Preflight(f"{path} cannot be used: {failure}. Remove it; new secrets are made then.") from None
    return fresh
