"""The memory that exists and is free: of the machine, or of this process's cgroup."""

import contextlib
from pathlib import Path

import psutil

#: Names of limit, usage and reclaimable page cache (a line of memory.stat) in cgroup v2 and v1.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_ROOT, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def headroom_bytes(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int | None:
    """Return how many bytes are free; None if that is unknown.

    Reclaimable page cache counts as free. `root` is the mount point of the cgroups, `membership` the file that lists
    those of this process.
    """
    free = []
    with contextlib.suppress(psutil.Error, OSError):
        free.append(int(psutil.virtual_memory().available))
    for folder, names in _groups(root, membership):
        with contextlib.suppress(OSError, ValueError, StopIteration):
            free.append(_free(folder, *names))
    return min(free, default=None)


def limit_bytes(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int | None:
    """Return how many bytes this process and its neighbours may use together; None if that is unknown."""
    limits = []
    with contextlib.suppress(psutil.Error, OSError):
        limits.append(int(psutil.virtual_memory().total))
    for folder, (limit, _, _) in _groups(root, membership):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int((folder / limit).read_text()))
    return min(limits, default=None)


def _groups(root: Path, membership: Path) -> list[tuple[Path, tuple[str, str, str]]]:
    """Return this process's cgroups and their parents: each of them may set a limit."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            tops, names = [root, root / "unified"], _V2
        elif "memory" in controllers.split(","):
            tops, names = [root / "memory"], _V1
        else:
            continue
        # In a container the path may be the host's: then only the top exists, and it is the container's cgroup.
        parts = [part for part in path.split("/") if part not in {"", ".."}]
        for top in tops:
            # guard: cgroup-memory
            groups += [(top.joinpath(*parts[:depth]), names) for depth in range(len(parts) + 1)]
    return groups


def _free(folder: Path, limit: str, usage: str, cache: str) -> int:
    """Return a cgroup's free bytes. Raises ValueError if its limit is the word `max`, OSError if it has none."""
    limit_bytes = int((folder / limit).read_text())
    used = int((folder / usage).read_text())
    stat = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return max(0, limit_bytes - used + next(int(value) for name, value in stat if name == cache))
