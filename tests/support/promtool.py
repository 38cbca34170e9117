"""promtool, Prometheus's own checker of rules and metrics."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.node import REPOSITORY

DEPLOY = REPOSITORY / "deploy"


def promtool() -> str:
    """Return the path of promtool. Without it the test is skipped, except in CI, where it fails."""
    found = shutil.which("promtool")
    if found is None:
        reason = "promtool is not installed (Debian: apt install prometheus)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return found


def run_promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it in a folder."""
    command = [promtool(), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
