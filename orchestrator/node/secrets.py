"""Generated secrets of a node: made once and kept in a file of mode 0600, so that they still fit its state after a
restart."""

import json
import os
import secrets
from pathlib import Path

from orchestrator.errors import Preflight
from orchestrator.machine import private


def generated(path: Path) -> dict[str, str]:
    """Return ADMIN_TOKEN, LIVEKIT_API_KEY, LIVEKIT_API_SECRET and VALKEY_PASSWORD of this node. The first call
    generates them.

    Raises:
        Preflight: the file cannot be read or written.
    """
    try:
        stored = private.load(path) if path.exists() or path.is_symlink() else {}
        fresh = {
            "ADMIN_TOKEN": secrets.token_urlsafe(24),
            "LIVEKIT_API_KEY": "API" + secrets.token_hex(8),
            "LIVEKIT_API_SECRET": secrets.token_urlsafe(48),
            "VALKEY_PASSWORD": secrets.token_urlsafe(32),
        } | stored
        if fresh != stored:  # a file of an earlier release may lack some
            write_private(path, json.dumps(fresh))
    except (OSError, ValueError, TypeError) as failure:
        raise Preflight(f"{path} cannot be used: {failure}. Remove it, and new secrets are generated.") from None
    return fresh


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, atomically."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)
