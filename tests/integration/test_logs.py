"""Agents' output is shipped as whole lines, exactly once, and with bounds, whatever it contains."""

from pathlib import Path

import pytest

from orchestrator.store import Store
from orchestrator.worker.log_chunks import CHUNK, LINE
from orchestrator.worker.log_shipper import LogShipper


@pytest.fixture
def shipper(store: Store, tmp_path: Path) -> LogShipper:
    return LogShipper(store, tmp_path, keep_lines=100)


async def test_lines_are_shipped_whole_and_once(store: Store, shipper: LogShipper, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("one\ntwo\nthr")
    shipper.follow("a")
    await shipper.ship_all()
    assert await store.logs("a", 10) == ["one", "two"]
    with path.open("a") as file:
        file.write("ee\n")
    await shipper.ship_all()
    await shipper.ship_all()
    assert await store.logs("a", 10) == ["one", "two", "three"]


async def test_a_new_shipper_continues_where_the_last_one_stopped(
    store: Store, shipper: LogShipper, tmp_path: Path
) -> None:
    path = tmp_path / "a.log"
    path.write_text("one\n")
    shipper.follow("a")
    await shipper.ship_all()
    path.write_text("one\ntwo\n")
    after = LogShipper(store, tmp_path, keep_lines=100)
    after.follow("a")
    await after.ship_all()
    assert await store.logs("a", 10) == ["one", "two"]


async def test_the_last_lines_of_a_crash_are_kept(store: Store, shipper: LogShipper, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("Traceback\nValueError: no")
    await shipper.ship_all()
    assert not await store.logs_closed(["a"])
    await shipper.finish("a", "[agent exited with code 1]")
    assert await store.logs_closed(["a"])
    assert not await store.logs_closed(["a", "b"])
    assert await store.logs("a", 10) == ["Traceback", "ValueError: no", "[agent exited with code 1]"]
    assert shipper.last_line("a") == "ValueError: no"


async def test_a_truncated_file_is_read_from_its_start(store: Store, shipper: LogShipper, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("long enough\n" * 10)
    shipper.follow("a")
    await shipper.ship_all()
    path.write_text("new\n")
    await shipper.ship_all()
    assert (await store.logs("a", 1)) == ["new"]


async def test_floods_binary_and_endless_lines_are_bounded(store: Store, shipper: LogShipper, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"y" * (20 * CHUNK) + b"\n\x00\x1b[31mred\xff\r\nlast\n")
    shipper.follow("a")
    await shipper.ship_all()
    lines = await store.logs("a", 1000)
    assert len(lines) <= 100
    assert max(len(line) for line in lines) <= LINE
    assert lines[-2:] == ["red\ufffd", "last"]
    assert not any(ord(character) < 32 for line in lines for character in line if character != "\t")
