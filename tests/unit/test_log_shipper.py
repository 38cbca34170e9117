"""The log shipper's limits, with a store in memory: floods, endless lines, binary data, and a lost Redis."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from orchestrator.clock import SystemClock
from orchestrator.errors import StoreUnavailable
from orchestrator.store import Store
from orchestrator.worker.log_chunks import CHUNK, LINE
from orchestrator.worker.log_shipper import LINES_PER_SECOND, LogShipper


class Memory:
    """The methods of a store that a shipper needs."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.offset = 0
        self.gone = False
        self.closed: dict[str, int] = {}

    async def append_logs(self, _agent: str, lines: Sequence[str], _keep: int, offset: int | None = None) -> None:
        # A round trip, during which other tasks run.
        await asyncio.sleep(0)
        if self.gone:
            raise StoreUnavailable
        self.lines += lines
        self.offset = self.offset if offset is None else offset

    async def close_log(self, agent: str) -> None:
        self.closed[agent] = len(self.lines)

    async def log_offset(self, _agent: str) -> int:
        await asyncio.sleep(0)
        return self.offset


class Ship(SystemClock):
    """A shipper of one agent's file, and its clock, which only `turn` advances."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.path = folder / "a.log"
        self.store = Memory()
        self.shipper = LogShipper(cast(Store, self.store), folder, keep_lines=100_000, clock=self)
        self.shipper.follow("a")

    def monotonic(self) -> float:
        return self.now

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    async def turn(self, seconds: float = 0.0) -> list[str]:
        """Return the lines that are shipped in the next turn."""
        self.now += seconds
        before = len(self.store.lines)
        await self.shipper.ship_all()
        return self.store.lines[before:]


@pytest.fixture
def ship(tmp_path: Path) -> Ship:
    return Ship(tmp_path)


def numbered(first: int, last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(first, last))


async def test_a_flood_is_cut_to_its_newest_lines_and_the_gap_is_counted(ship: Ship) -> None:
    ship.write(numbered(0, 2000))
    shipped = await ship.turn()
    assert shipped[1:] == [str(number) for number in range(1500, 2000)]
    left_out = len(numbered(0, 1500))
    assert shipped[0] == (
        f"[at least {left_out} bytes in 1500 lines or more are left out here: the agent printed too much at once]"
    )


async def test_a_flood_is_limited_to_the_lines_per_second(ship: Ship) -> None:
    ship.write(numbered(0, LINES_PER_SECOND))
    assert len(await ship.turn()) == LINES_PER_SECOND
    shipped = []
    for turn in range(4):
        ship.write(numbered(turn * 1000, turn * 1000 + 1000))
        shipped += await ship.turn(0.25)
    assert len([line for line in shipped if line.isdigit()]) == LINES_PER_SECOND
    assert len(shipped) <= LINES_PER_SECOND + 4
    assert shipped[-1] == "3999", "the newest are kept"
    assert await ship.turn(0.25) == []


async def test_an_agent_below_the_line_limit_loses_nothing(ship: Ship) -> None:
    for turn in range(40):
        ship.write(numbered(turn * 100, turn * 100 + 100))
        await ship.turn(0.25)
    assert ship.store.lines == [str(number) for number in range(4000)]


async def test_a_large_log_is_never_read_at_once(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = LogShipper._read

    def counting(self: LogShipper, agent_id: str, start: int, size: int) -> tuple[bytes, int]:
        data, length = original(self, agent_id, start, size)
        read.append(len(data))
        return data, length

    monkeypatch.setattr(LogShipper, "_read", counting)
    with ship.path.open("wb") as file:
        file.truncate(100_000_000)
    ship.write(b"\nlast\n")
    shipped = await ship.turn()
    assert shipped[-1] == "last"
    assert sum(read) <= 3 * CHUNK


@pytest.mark.parametrize("pieces", [1, 7, 400])
async def test_an_endless_line_is_cut_and_its_rest_skipped(ship: Ship, pieces: int) -> None:
    whole = b"before\n" + b"x" * 10_000_000 + b"\nafter\n"
    size = len(whole) // pieces + 1
    for start in range(0, len(whole), size):
        ship.write(whole[start : start + size])
        await ship.turn(0.25)
    lines = [line for line in ship.store.lines if not line.startswith("[at least")]
    if pieces == 400:
        assert lines == ["before", "x" * LINE, "after"], "the pieces are small enough for nothing to be skipped"
    assert lines[-1] == "after"
    assert lines.count("x" * LINE) <= 1
    assert len(lines) <= 3
    assert sum(len(line) for line in ship.store.lines) < 2 * LINE


async def test_an_endless_line_is_cut_across_several_turns(ship: Ship) -> None:
    ship.write(b"x" * 10_000_000)
    assert (await ship.turn())[-1] == "x" * LINE
    ship.write(b"y" * 10)
    assert await ship.turn(1) == []
    ship.write(b"\nafter\n")
    assert "after" in await ship.turn(1)
    assert not [line for line in ship.store.lines if "y" in line and "x" in line]


async def test_binary_output_becomes_printable_lines(ship: Ship) -> None:
    ship.write(
        b"\x1b[1;31mred\x1b[0m\x1b]0;title\x07 and \x1b(Bplain\r\n"
        b"10%\r20%\r\n"
        b'{"event": "died"}\n'
        b"a\x00b\x85c\xe2\x80\xa8d\xc2\x9be\x0bf\x0cg\x1ch\n"
        b"tab\tstays\n\n \r\n"
        b"\xff\xfe\n"
    )
    assert await ship.turn() == [
        "red and plain", "10%20%", '{"event": "died"}', "ab\ufffdcdefgh", "tab\tstays", "\ufffd\ufffd",
    ]  # fmt: skip


async def test_lines_that_redis_refused_are_shipped_later(ship: Ship) -> None:
    ship.write(numbered(0, 1000))
    ship.store.gone = True
    with pytest.raises(StoreUnavailable):
        await ship.turn()
    ship.store.gone = False
    shipped = await ship.turn(1)
    assert (shipped[1], shipped[-1]) == ("500", "999")
    assert await ship.turn(1) == []


async def test_a_death_during_a_turn_ships_no_line_twice(ship: Ship) -> None:
    ship.write(b"one\ntwo")
    await asyncio.gather(ship.shipper.ship_all(), ship.shipper.finish("a", "[end]"), ship.shipper.ship_all())
    assert ship.store.lines == ["one", "two", "[end]"]
    ship.write(b"late\n")
    assert await ship.turn() == [], "the file is not followed any more"


async def test_nothing_follows_the_closing_line(ship: Ship) -> None:
    original = ship.store.append_logs

    async def append(agent: str, lines: Sequence[str], keep: int, offset: int | None = None) -> None:
        await original(agent, lines, keep, offset)
        if "[end]" in lines:
            ship.write(b"late\n")  # by a grandchild that is still alive

    ship.store.append_logs = append  # type: ignore[method-assign]
    await asyncio.gather(ship.shipper.finish("a", "[end]"), ship.shipper.ship_all())
    assert ship.store.lines == ["[end]"]


async def test_the_last_lines_of_a_flood_are_shipped_beyond_its_limit(ship: Ship) -> None:
    ship.write(numbered(0, 5000))
    await ship.turn()
    ship.write(numbered(0, 5000) + b"ValueError: no")
    await ship.shipper.finish("a", "[end]")
    assert ship.store.lines[-2:] == ["ValueError: no", "[end]"]
    assert ship.store.closed == {"a": len(ship.store.lines)}, "closed behind the very last line"
    assert ship.shipper.last_line("a") == "ValueError: no"
    assert ship.shipper.last_line("a") == ""


async def test_the_last_line_is_remembered_after_it_was_shipped(ship: Ship) -> None:
    ship.write(b"ValueError: no\n\n")
    await ship.turn()
    await ship.shipper.finish("a", "[end]")
    assert ship.shipper.last_line("a") == "ValueError: no"


async def test_the_number_of_remembered_last_lines_is_bounded(ship: Ship, tmp_path: Path) -> None:
    for number in range(1000):
        await ship.shipper.finish(f"agent{number}", "[end]")
    assert len(ship.shipper._last) < 300
