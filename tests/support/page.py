"""Builds the page with the Talk button once for all tests of all processes."""

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

from tests.support.documents import REPOSITORY
from tests.support.tools import tool


def build_page() -> None:
    """Build the page. Without Node.js the tests are skipped, except in CI, where they fail."""
    tool("npm", "https://nodejs.org")
    with (Path(tempfile.gettempdir()) / f"page-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = subprocess.run(
            ["make", "-C", REPOSITORY, "frontend"], capture_output=True, text=True, timeout=300, check=False
        )
    assert built.returncode == 0, built.stderr
