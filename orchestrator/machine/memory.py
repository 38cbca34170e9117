"""How much memory there is and is left: of the machine, or of the cgroup that this process may not leave."""

import contextlib
from pathlib import Path

import psutil

#: Names of limit, usage and reclaimable page cache (a line of memory.stat) in cgroup v2 and v1.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_ROOT, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def headroom_bytes(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int | None:
    """Return how many bytes can still be taken; None where nobody can tell.

    Page cache that the kernel would give back counts as free. `root` is where cgroups are mounted, `membership` the
    file that says in which ones this process is.
    """
    found = []
    with contextlib.suppress(psutil.Error, OSError):
        found.append(int(psutil.virtual_memory().available))
    for folder, names in _groups(root, membership):
        with contextlib.suppress(OSError, ValueError, StopIteration):
            found.append(_left(folder, *names))
    return min(found, default=None)


def limit_bytes(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int | None:
    """Return how many bytes this process and those around it may have in all; None where nobody can tell."""
    found = []
    with contextlib.suppress(psutil.Error, OSError):
        found.append(int(psutil.virtual_memory().total))
    for folder, (limit, _, _) in _groups(root, membership):
        with contextlib.suppress(OSError, ValueError):
            found.append(int((folder / limit).read_text()))
    return min(found, default=None)


def _groups(root: Path, membership: Path) -> list[tuple[Path, tuple[str, str, str]]]:
    """Return this process's cgroups and the ones around them: each of them may set a limit."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            tops, names = [root, root / "unified"], _V2
        elif "memory" in controllers.split(","):
            tops, names = [root / "memory"], _V1
        else:
            continue
        # In a container the path may be the one outside: then only the top is there, and it is the container's.
        parts = [part for part in path.split("/") if part not in {"", ".."}]
        for top in tops:
            # guard: cgroup-memory
            found += [(top.joinpath(*parts[:depth]), names) for depth in range(len(parts) + 1)]
    return found


def _left(folder: Path, limit: str, usage: str, cache: str) -> int:
    """Return what a cgroup leaves. Raises ValueError where its limit is the word `max`, OSError where it has none."""
    most = int((folder / limit).read_text())
    used = int((folder / usage).read_text())
    stat = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return max(0, most - used + next(int(value) for name, value in stat if name == cache))
