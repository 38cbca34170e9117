"""The functions that read /proc, checked with processes in known states."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.chaos import cpu_seconds, descendants, fds, rss, zombies
from tests.support.processes import poll

pytestmark = pytest.mark.thorough


@contextmanager
def python(code: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A Python process that runs some code and then reports that; it ends when its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}\nprint('done', flush=True)\ninput()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"done\n"
            yield process
        finally:
            process.kill()


def test_zombies_are_the_unreaped_children_of_the_given_processes() -> None:
    code = "import subprocess; a = subprocess.Popen(['true']); b = subprocess.Popen(['sleep', '60'])"
    code += "; print(a.pid, b.pid, flush=True)"
    mine = subprocess.Popen(["true"])
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}; input(); b.kill()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        dead, living = map(int, other.stdout.readline().split())
        poll(lambda: zombies([other.pid]) == [dead], "its child is dead")
        poll(lambda: mine.pid in zombies([os.getpid()]), "our child is dead")
        assert {dead, mine.pid} <= set(zombies([os.getpid(), other.pid]))
        assert dead not in zombies([os.getpid()])
        assert zombies([living]) == []
        assert zombies([]) == []
        mine.wait()
        assert mine.pid not in zombies([os.getpid()])
        other.communicate(b"\n", timeout=10)
    assert zombies([other.pid]) == []


def test_a_process_name_with_brackets_and_a_state_is_parsed(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep
    named = tmp_path / "x) Z 1 (y"
    named.symlink_to(sleep)
    with subprocess.Popen([str(named), "60"], executable=str(named)) as process:
        try:
            poll(lambda: "x) Z 1" in Path(f"/proc/{process.pid}/stat").read_text(), "the process has its name")
            assert process.pid not in zombies([1, os.getpid()])
            assert process.pid in descendants(os.getpid())
            assert cpu_seconds(process.pid) < 5
        finally:
            process.kill()


def test_descendants_include_grandchildren() -> None:
    code = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', '''{}'''])"
    leaf = "import subprocess; subprocess.Popen(['sleep', '60']).wait()"
    with python(code.format(leaf)) as process:
        middle, last = poll(lambda: found if len(found := descendants(process.pid)) == 2 else [], "both run")
        assert descendants(middle) == [last]
        assert descendants(last) == []
        assert {process.pid, middle, last} <= set(descendants(os.getpid()))
        for pid in (last, middle):
            psutil.Process(pid).kill()
    assert descendants(process.pid) == []


def test_fds_counts_open_descriptors() -> None:
    with python("pass") as plain, python("files = [open('/dev/null') for _ in range(40)]") as holder:
        assert fds(plain.pid) == 3
        assert fds(holder.pid) == 43
    before = fds(os.getpid())
    with Path("/dev/null").open():
        assert fds(os.getpid()) == before + 1
    assert before == len([fd for fd in os.listdir("/proc/self/fd") if Path(f"/proc/self/fd/{fd}").exists()])


def test_cpu_seconds_grow_with_work_and_not_with_time() -> None:
    with python("pass") as idle, python("print('done', flush=True)\nwhile True: pass") as busy:
        before = cpu_seconds(idle.pid)
        start = cpu_seconds(busy.pid)
        poll(lambda: cpu_seconds(busy.pid) > start + 0.3, "it has used processor time")
        assert cpu_seconds(idle.pid) < before + 0.1
        assert cpu_seconds(busy.pid) == pytest.approx(sum(psutil.Process(busy.pid).cpu_times()[:2]), abs=1)


def test_rss_grows_with_memory_that_is_used() -> None:
    size = 100_000_000
    with python("pass") as plain, python(f"memory = bytearray(b'x') * {size}") as holder:
        grown = rss(holder.pid) - rss(plain.pid)
        assert size * 0.9 < grown < size * 1.2
        assert rss(plain.pid) == pytest.approx(psutil.Process(plain.pid).memory_info().rss, rel=0.05)


@pytest.mark.parametrize("look", [fds, cpu_seconds, rss])
def test_reading_an_exited_process_is_an_error(look: "type[float]") -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    with pytest.raises((FileNotFoundError, ProcessLookupError)):
        look(process.pid)
