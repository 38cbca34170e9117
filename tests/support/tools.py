"""Programs that tests need and that are not installed by `make test`."""

import os
import shutil

import pytest


def tool(name: str, install: str) -> str:
    """Return the path of a program. Without it the test is skipped, except in CI, where it fails. `install`: how."""
    if found := shutil.which(name):
        return found
    reason = f"no {name} on PATH ({install})"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
