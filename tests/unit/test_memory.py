"""Free memory: the minimum of the machine's and that of each cgroup around this process."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from orchestrator.machine.memory import headroom_bytes, limit_bytes

MACHINE = 1_000_000


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=MACHINE))


def group(folder: Path, limit: str, used: int, cache: int, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    limit_name, used_name, cache_name = {
        2: ("memory.max", "memory.current", "inactive_file"),
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }[version]
    (folder / limit_name).write_text(f"{limit}\n")
    (folder / used_name).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{cache_name} {cache}\nfile 7\n")


def left(root: Path, membership: str) -> int | None:
    (root / "membership").write_text(membership)
    return headroom_bytes(root, root / "membership")


def test_without_a_cgroup_the_machine_is_the_limit(tmp_path: Path) -> None:
    assert left(tmp_path, "0::/\n") == MACHINE
    assert headroom_bytes(tmp_path, tmp_path / "not there") == MACHINE


def test_free_memory_is_the_limit_minus_unreclaimable_use(tmp_path: Path) -> None:
    group(tmp_path / "a", "5000", 4000, 700)
    assert left(tmp_path, "0::/a\n") == 1700


def test_a_limit_of_max_is_ignored(tmp_path: Path) -> None:
    group(tmp_path / "a", "max", 4000, 700)
    assert left(tmp_path, "0::/a\n") == MACHINE


def test_a_limit_of_a_parent_cgroup_counts(tmp_path: Path) -> None:
    group(tmp_path, "9000", 1000, 0)
    group(tmp_path / "a", "4000", 1000, 0)
    group(tmp_path / "a" / "b", "max", 500, 0)
    assert left(tmp_path, "0::/a/b\n") == 3000


def test_a_limit_above_the_machines_memory_is_ignored(tmp_path: Path) -> None:
    group(tmp_path / "a", str(9 * MACHINE), 4000, 0)
    assert left(tmp_path, "0::/a\n") == MACHINE


def test_free_memory_is_never_negative(tmp_path: Path) -> None:
    group(tmp_path / "a", "5000", 6000, 0)
    assert left(tmp_path, "0::/a\n") == 0


def test_cgroup_version_one_and_the_unified_mount_are_read(tmp_path: Path) -> None:
    group(tmp_path / "memory" / "a", "5000", 4000, 700, version=1)
    assert left(tmp_path, "5:cpu:/x\n4:memory,other:/a\n0::/\n") == 1700
    group(tmp_path / "unified" / "u", "1500", 0, 0)
    assert left(tmp_path, "4:memory:/a\n0::/u\n") == 1500


def test_a_container_path_outside_the_mount_uses_the_mounts_root(tmp_path: Path) -> None:
    group(tmp_path / "memory", "5000", 4000, 0, version=1)
    assert left(tmp_path, "4:memory:/docker/0123\n") == 1000


def test_headroom_of_this_machine_is_measured() -> None:
    found = headroom_bytes()
    assert found is not None
    assert 0 <= found <= MACHINE


def test_the_smallest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=MACHINE))
    group(tmp_path, "9000", 1000, 0)
    group(tmp_path / "a", "max", 1000, 0)
    (tmp_path / "membership").write_text("0::/a\n")
    assert limit_bytes(tmp_path, tmp_path / "membership") == 9000
    (tmp_path / "membership").write_text("0::/b\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert limit_bytes(tmp_path, tmp_path / "membership") == MACHINE
