"""Figures of processes, from /proc: zombies, children, file descriptors, processor time, memory.

For a process that has exited they raise `FileNotFoundError` or `ProcessLookupError`; the lists leave it out instead.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on (field 3 of proc(5)); the name may contain spaces."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _all() -> Iterator[tuple[int, str, int]]:
    """Return the pid, state and parent of every process."""
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            state, parent = _stat(pid)[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield pid, state, int(parent)


def zombies(of: list[int]) -> list[int]:
    """Return the children of these processes that are zombies."""
    parents = set(of)
    return [pid for pid, state, parent in _all() if state == "Z" and parent in parents]


def descendants(pid: int) -> list[int]:
    """Return all descendants including zombies; parents come before their children."""
    children: dict[int, list[int]] = {}
    for child, _, parent in _all():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def fds(pid: int) -> int:
    """Return how many file descriptors are open."""
    # Listing our own descriptors opens one more.
    return len(os.listdir(f"/proc/{pid}/fd")) - (pid == os.getpid())


def connections(pid: int) -> int:
    """Return how many Unix sockets a process has: its connections to the embedded Valkey, and a few permanent ones."""
    return len(psutil.Process(pid).net_connections("unix"))


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, user and system, without its children's."""
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) / _TICKS


def rss(pid: int) -> int:
    """Return the resident memory of a process in bytes; pages shared with its fork server count in full."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
