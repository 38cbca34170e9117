"""Runs the page's own tests with Node.js."""

import os
import shutil
import subprocess

import pytest

from tests.support.node import REPOSITORY

pytestmark = pytest.mark.thorough


@pytest.mark.skipif(shutil.which("npm") is None and not os.environ.get("CI"), reason="no npm on PATH")
def test_the_frontend_tests_pass() -> None:
    subprocess.run(["make", "-C", REPOSITORY, "frontend/node_modules/.installed"], check=True, timeout=300)
    done = subprocess.run(
        ["npm", "test"], cwd=REPOSITORY / "frontend", capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
