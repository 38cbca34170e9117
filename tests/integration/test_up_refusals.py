"""The errors of `orchestrator up` and make when a node cannot start: one line, with the remedy."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import Preflight
from orchestrator.node.environment import in_dot_env
from tests.support.node import REPOSITORY, Node
from tests.support.processes import free_ports

pytestmark = pytest.mark.thorough


def _fails(**settings: object) -> str:
    """Return the error of a node that cannot start."""
    environment = Node(Path("/nonexistent"), **settings).environment
    done = subprocess.run(
        [str(Path(sys.executable).parent / "orchestrator"), "up"],
        env=environment | {name: str(value) for name, value in settings.items()},
        cwd=REPOSITORY / "tests", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, f"expected one line: {done.stderr!r}"
    assert not done.stdout
    return done.stderr


def test_a_busy_port_is_named_with_its_holder_and_the_setting(tmp_path: Path) -> None:
    port = free_ports()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        said = _fails(RUN_DIR=tmp_path, PORT=port)
    assert f"port {port} is held by python" in said
    assert "(pid " in said
    assert "set PORT to a free port" in said


def test_a_bad_setting_is_named(tmp_path: Path) -> None:
    assert "POOL_TARGET='many'" in _fails(RUN_DIR=tmp_path, POOL_TARGET="many")
    assert "10/minute" in _fails(RUN_DIR=tmp_path, RATE_LIMIT="often")
    assert "set LIVEKIT_API_KEY and LIVEKIT_API_SECRET" in _fails(RUN_DIR=tmp_path, LIVEKIT_URL="ws://127.0.0.1:1")


def test_a_long_folder_is_named(tmp_path: Path) -> None:
    assert "too long for a Unix socket" in _fails(RUN_DIR=tmp_path / ("x" * 100))


@pytest.mark.parametrize("name", ["two\nlines", "tab\t", "bell\a", "\udcff"])
def test_a_folder_name_with_control_characters_is_refused(tmp_path: Path, name: str) -> None:
    for setting in ("RUN_DIR", "FRONTEND_DIR"):
        said = _fails(**({"RUN_DIR": tmp_path} | {setting: tmp_path / name}))
        assert said.startswith(f"orchestrator: {setting}=")
        assert "the path contains a control character or invalid UTF-8" in said


def test_a_dot_env_line_that_is_no_environment_variable_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in ("'A=B'=c\n", "NUL='a\0b'\n"):
        (tmp_path / ".env").write_text(line)
        with pytest.raises(Preflight, match="is no environment variable"):
            in_dot_env()


def test_a_missing_go_is_named(tmp_path: Path) -> None:
    said = _fails(RUN_DIR=tmp_path, PATH="/nowhere", XDG_CACHE_HOME=tmp_path)
    assert "no LiveKit server: set LIVEKIT_URL, LIVEKIT_API_KEY" in said
    assert "set LIVEKIT_URL" in said


def test_a_missing_node_js_is_named_and_does_not_prevent_the_start(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("make", "bash", "python3", "find", "env"):
        (programs / name).symlink_to(shutil.which(name) or pytest.fail(f"no {name} on PATH"))
    found = os.environ | {"PATH": str(programs), "PORT": "many"}
    installed = [f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.installed"]
    make = lambda target: subprocess.run(["make", "-C", REPOSITORY, target, *installed], env=found,  # noqa: E731
                                         capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    page = make("frontend")
    assert page.returncode != 0
    assert "needs Node 20.19 or later" in page.stderr
    assert "node is missing" in page.stderr
    up = make("up").stderr
    assert "Going on without the page" in up
    assert "PORT='many'" in up, "make started the node, which refuses this setting"


def test_an_old_python_is_named(tmp_path: Path) -> None:
    make = subprocess.run(["make", "-C", REPOSITORY, "up", "VENV=" + str(tmp_path / "v"), "PYTHON="],
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert make.returncode != 0
    assert "No Python 3.11 or later found" in make.stderr
