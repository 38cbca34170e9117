"""Identity of processes: a zombie, another process with the pid, and a dying process do not count."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.machine import process
from orchestrator.machine.process import ProcessId, ProcStat
from tests.support.processes import alive, poll

pytestmark = pytest.mark.thorough


def test_a_killed_process_counts_as_dead_at_once() -> None:
    """The kernel takes milliseconds to end a large process; its agent is not assigned during that time."""
    code = "memory = bytearray(b'x') * 800_000_000; print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        identity = ProcessId.of(process.pid)
        assert identity is not None
        assert identity.alive
        os.kill(process.pid, signal.SIGKILL)
        assert not identity.alive


def test_a_kill_between_two_reads_of_the_state_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([ProcStat(False, 1, 2, 2, 3), ProcStat(True, 1, 2, 2, 3)])
    monkeypatch.setattr(process, "read_stat", lambda _: next(looks))
    assert ProcessId.of(2) is None


def test_a_zombie_is_dead_and_is_not_signalled() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as process:
        identity = ProcessId.of(process.pid)
        assert identity is not None
        process.kill()
        poll(lambda: not identity.alive, "it is dead")
        assert not identity.signal_group(signal.SIGTERM)


def test_the_same_pid_with_another_start_time_is_another_process() -> None:
    identity = ProcessId.of(os.getpid())
    assert identity is not None
    assert identity.alive
    assert not ProcessId(identity.pid, identity.start_ticks + 1).alive
    assert not ProcessId(identity.pid, identity.start_ticks + 1).signal_group(signal.SIGTERM)


#: A leader of a session with a child in its group; both wait.
LEADER = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); input()"


@contextlib.contextmanager
def _leader(**options: Any) -> Iterator[tuple["subprocess.Popen[bytes]", ProcessId, int]]:
    with subprocess.Popen(
        [sys.executable, "-c", LEADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
    ) as leader:
        assert leader.stdout is not None
        member = int(leader.stdout.readline())
        identity = ProcessId.of(leader.pid)
        assert identity is not None
        try:
            yield leader, identity, member
        finally:
            for pid in (leader.pid, member):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_processes_left_by_a_dead_leader_are_killed() -> None:
    with _leader(start_new_session=True) as (process, identity, member):
        assert not identity.kill_left_behind(), "it lives"
        assert alive(member)
        process.kill()
        process.wait()
        assert identity.kill_left_behind()
        poll(lambda: not alive(member), "it is gone")
        assert not identity.kill_left_behind()


def test_a_group_with_a_new_leader_is_not_signalled() -> None:
    with _leader(start_new_session=True) as (process, identity, member):
        assert not ProcessId(identity.pid, identity.start_ticks - 1).kill_left_behind()
        assert alive(process.pid)
        assert alive(member)


def test_a_group_in_another_session_is_not_signalled() -> None:
    with _leader(process_group=0) as (process, identity, member):
        process.kill()
        process.wait()
        assert not identity.kill_left_behind()
        assert alive(member)


def test_a_group_older_than_its_leader_is_not_signalled() -> None:
    with _leader(start_new_session=True) as (process, identity, member):
        process.kill()
        process.wait()
        assert not ProcessId(identity.pid, identity.start_ticks + 1_000_000).kill_left_behind()
        assert alive(member)


@pytest.mark.thorough
@pytest.mark.parametrize(("command", "code"), [("--help", 0), ("no-such-command", 2)])
def test_the_command_line_ends_without_exit_handlers(command: str, code: int) -> None:
    """`orchestrator call` loads LiveKit's native library, whose exit handlers may abort."""
    program = "import atexit; atexit.register(print, 'handler'); from orchestrator.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program, command], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Usage" in done.stdout + done.stderr
    assert "handler" not in done.stdout
