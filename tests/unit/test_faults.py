"""Fault points: no effect without FAULTS, and with it exactly as often as set."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import faults
from orchestrator.errors import OrchestratorError
from tests.support.node import REPOSITORY
from tests.support.processes import poll

POINT = "host.after_fork"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with monkeypatch.context() as patch:
        patch.setenv("FAULT_LOG", str(tmp_path / "faults"))
        yield tmp_path / "faults"
    faults.arm()


def test_a_fault_point_has_no_effect_unless_armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTS", f"{POINT}:raise")
    monkeypatch.chdir(tmp_path)
    faults.arm()
    faults.hit(POINT)
    monkeypatch.setenv("FAULTS", "rubbish")
    faults.arm()
    assert not list(tmp_path.iterdir())


def test_every_fault_point_is_listed_with_a_description() -> None:
    with pytest.raises(AssertionError, match="nowhere"):
        faults.hit("nowhere")
    assert all(faults.POINTS.values())


def test_passing_a_fault_point_is_logged(log: Path) -> None:
    faults.arm()
    faults.hit(POINT)
    faults.hit(POINT)
    assert log.read_text() == f"{POINT}\n" * 2


@pytest.mark.parametrize(("fault", "times"), [("raise", 1), ("raise@3", 3)])
def test_a_fault_happens_as_often_as_configured(
    log: Path, monkeypatch: pytest.MonkeyPatch, fault: str, times: int
) -> None:
    monkeypatch.setenv("FAULTS", f" {POINT}:{fault} ")
    faults.arm()
    for _ in range(times):
        with pytest.raises(OrchestratorError, match=POINT):
            faults.hit(POINT)
    faults.hit(POINT)


@pytest.mark.parametrize("fault", ["nowhere:kill", f"{POINT}:explode", POINT, f"{POINT}:kill@x"])
def test_an_impossible_fault_is_refused(log: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setenv("FAULTS", fault)
    with pytest.raises(ValueError, match=r"fault|invalid"):
        faults.arm()
    monkeypatch.delenv("FAULTS")


@pytest.mark.thorough
@pytest.mark.parametrize(("action", "state"), [("kill", None), ("hang", "T")])
def test_processes_share_the_count_of_a_fault(log: Path, action: str, state: str | None) -> None:
    code = f"from orchestrator import faults; faults.hit({POINT!r}); print('passed')"
    environment = {**os.environ, "FAULTS": f"{POINT}:{action}@2", "PYTHONPATH": str(REPOSITORY)}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)

    for _ in range(2):
        with start() as process:
            if state:
                stat = Path(f"/proc/{process.pid}/stat")
                poll(lambda stat=stat: f") {state} " in stat.read_text(), "it is stopped")  # type: ignore[misc]
                process.kill()
            assert process.wait() == -signal.SIGKILL
    with start() as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"passed\n"
    assert log.read_text() == f"{POINT}\n" * 3
