"""The page with the Talk button, built once, whichever tests of whichever process want it."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.documents import REPOSITORY


def build_page() -> None:
    """Have the page built. Without a Node the tests are skipped, but fail where CI runs them."""
    if shutil.which("npm") is None and not os.environ.get("CI"):
        pytest.skip("no npm on PATH to build the page with")
    with (Path(tempfile.gettempdir()) / f"page-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = subprocess.run(
            ["make", "-C", REPOSITORY, "frontend"], capture_output=True, text=True, timeout=300, check=False
        )
    assert built.returncode == 0, built.stderr
