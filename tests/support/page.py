"""Builds the page with the Talk button once for all tests of all processes."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.documents import REPOSITORY


def build_page() -> None:
    """Build the page. Without Node.js the tests are skipped, except in CI, where they fail."""
    if shutil.which("npm") is None and not os.environ.get("CI"):
        pytest.skip("no npm on PATH to build the page with")
    with (Path(tempfile.gettempdir()) / f"page-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = subprocess.run(
            ["make", "-C", REPOSITORY, "frontend"], capture_output=True, text=True, timeout=300, check=False
        )
    assert built.returncode == 0, built.stderr
