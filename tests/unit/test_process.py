"""Identity of processes: no zombie, no stranger, no one who is dying already."""

import os
import signal
import subprocess
import sys

from orchestrator.node.process import ProcessId
from tests.support.processes import poll


def test_a_killed_process_counts_as_dead_at_once() -> None:
    """The kernel needs milliseconds to take a large process apart; no agent is handed out in that time."""
    code = "memory = bytearray(b'x') * 800_000_000; print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        identity = ProcessId.of(process.pid)
        assert identity is not None
        assert identity.alive
        os.kill(process.pid, signal.SIGKILL)
        assert not identity.alive


def test_a_zombie_is_dead_and_is_not_signalled() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as process:
        identity = ProcessId.of(process.pid)
        assert identity is not None
        process.kill()
        poll(lambda: not identity.alive, "it is dead")
        assert not identity.signal_group(signal.SIGTERM)


def test_the_same_pid_with_another_start_is_another_process() -> None:
    identity = ProcessId.of(os.getpid())
    assert identity is not None
    assert identity.alive
    assert not ProcessId(identity.pid, identity.start_ticks + 1).alive
    assert not ProcessId(identity.pid, identity.start_ticks + 1).signal_group(signal.SIGTERM)
