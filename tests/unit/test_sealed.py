"""A sealed process: other processes of its user cannot read it, and its program runs normally."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.thorough, pytest.mark.skipif(sys.platform != "linux", reason="Linux's")]

#: Changes to a user other than root, because root may read everything. Setting the uid seals, so that is undone.
_NOBODY = """\
import ctypes, os, sys
from orchestrator.machine.sealed import seal
if os.getuid() == 0:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
"""
_HOLDER = _NOBODY + "if sys.argv[1:]: seal()\nprint('there', flush=True); sys.stdin.read()"
_LOOKER = """
for name in ("environ", "mem", "maps"):
    try:
        os.close(os.open(f"/proc/{sys.argv[1]}/{name}", os.O_RDONLY))
        print(name)
    except PermissionError:
        pass
"""


def _seen(*sealed: str) -> list[str]:
    """Return the files in /proc that one process of a user may open of another one."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    holder = [sys.executable, "-c", _HOLDER, *sealed]
    with subprocess.Popen(holder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "there\n"
        looker = [sys.executable, "-c", _NOBODY + _LOOKER, str(process.pid)]
        done = subprocess.run(looker, env=environment, capture_output=True, text=True, timeout=30, check=True)
        process.communicate()
    return done.stdout.split()


def test_other_processes_of_its_user_cannot_read_its_environment_or_memory() -> None:
    assert _seen() == ["environ", "mem", "maps"], "otherwise this test proves nothing"
    assert _seen("sealed") == []


def test_a_sealed_program_runs_as_requested(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(
        "import ctypes, json, sys\n"
        "print(json.dumps([__name__, sys.argv, sys.path[0], ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)]))\n"
        "sys.exit(7)\n"
    )
    command = [sys.executable, "-m", "orchestrator.machine.sealed", "shown", "--quiet", "two words"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 7, done.stderr
    name, argv, first, dumpable = json.loads(done.stdout)
    assert name == "__main__"
    assert argv[1:] == ["--quiet", "two words"]
    assert first == str(tmp_path)
    assert dumpable == 0
