"""promtool, Prometheus's own checker of rules and metrics."""

import subprocess
from pathlib import Path

from tests.support.node import REPOSITORY
from tests.support.tools import tool

DEPLOY = REPOSITORY / "deploy"


def promtool() -> str:
    """Return the path of promtool."""
    return tool("promtool", "Debian: apt install prometheus")


def run_promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it in a folder."""
    command = [promtool(), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
