"""Ships what agents print from their log files to Redis.

An agent writes to a file, never to a pipe: a pipe fills up and blocks, and breaks when its reader dies. One shipper
per node follows all files, for Python agents and plain command lines alike, crashes included.

Failure cases: Redis gone → nothing moves, the newest part is shipped later; an agent that floods → its newest lines
and a line that says what is missing; a line without an end → its beginning; a file that the host cut → read anew.
"""

import asyncio
import re
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.clock import SYSTEM_CLOCK, Clock
from orchestrator.store import Store

SHIP_SECONDS = 0.25
#: Bytes taken from one file at a time, and the longest line kept.
CHUNK = 262_144
LINE = 4_000
#: Lines of one agent that are shipped per second, and after a pause at once.
LINES_PER_SECOND = 500
#: Bytes that LINE characters may have.
_LINE_BYTES = 4 * LINE
#: Last lines of dead agents that nobody has asked for yet.
_KEEP_LAST = 256
#: Escape sequences of terminals; then all that is left of control characters, C1 and line separators too.
_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-Z\\^-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(slots=True)
class _File:
    """How far one agent's file is shipped."""

    offset: int = -1  #: -1: not yet asked where the last shipper stopped
    skipping: bool = False  #: the offset is within a line of which nothing more is wanted
    lines: float = LINES_PER_SECOND  #: that may be shipped now
    refilled: float = 0.0
    dropped_lines: int = 0
    dropped_bytes: int = 0
    #: A death is shipped beside the regular turn, and each must see how far the other has come.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class LogShipper:
    """Follows the log files of one node's agents."""

    def __init__(self, store: Store, folder: Path, keep_lines: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store, self._folder, self._keep, self._clock = store, folder, keep_lines, clock
        self._files: dict[str, _File] = {}
        self._last: dict[str, str] = {}

    def follow(self, agent_id: str) -> None:
        """Follow an agent's file from where the last shipper stopped."""
        self._files.setdefault(agent_id, _File())

    async def ship_all(self) -> None:
        """Ship what was added to every followed file. Raises `StoreUnavailable`; nothing is skipped then."""
        for agent_id, file in list(self._files.items()):
            async with file.lock:
                # An agent that died meanwhile has had its last lines shipped, and a closing one.
                if self._files.get(agent_id) is file:
                    await self._ship(agent_id, file, final=False)

    async def finish(self, agent_id: str, last_words: str) -> None:
        """Ship the rest of a dead agent's file and a closing line."""
        self.follow(agent_id)
        file = self._files[agent_id]
        async with file.lock:
            await self._ship(agent_id, file, final=True)
            await self._store.append_logs(agent_id, [last_words], self._keep)
            self._files.pop(agent_id, None)
        self._last[agent_id] = self._tail(agent_id)
        if len(self._last) > _KEEP_LAST:
            del self._last[next(iter(self._last))]

    def last_line(self, agent_id: str) -> str:
        """Return the last line a finished agent printed, once."""
        return self._last.pop(agent_id, "")

    def _read(self, agent_id: str, start: int, size: int) -> tuple[bytes, int]:
        """Return bytes of a file from a place, which counts from the end when negative; and the file's length."""
        try:
            with (self._folder / f"{agent_id}.log").open("rb") as file:
                length = file.seek(0, 2)
                file.seek(max(0, length + start) if start < 0 else start)
                return file.read(size), length
        except FileNotFoundError:
            return b"", 0

    def _tail(self, agent_id: str) -> str:
        data, _ = self._read(agent_id, -2 * _LINE_BYTES, 2 * _LINE_BYTES)
        lines = (_clean(line) for line in reversed(data.split(b"\n")))
        return next((line for line in lines if line.strip()), "")

    async def _ship(self, agent_id: str, file: _File, *, final: bool) -> None:
        if file.offset < 0:
            file.offset = await self._store.log_offset(agent_id)
        now = self._clock.monotonic()
        file.lines = min(LINES_PER_SECOND, file.lines + (now - file.refilled) * LINES_PER_SECOND)
        file.refilled = now
        room = LINES_PER_SECOND if final else int(file.lines)
        if not room:
            return
        offset, skipping = file.offset, file.skipping
        dropped_lines, dropped_bytes = file.dropped_lines, file.dropped_bytes
        data, length = self._read(agent_id, offset, CHUNK)
        if length < offset:
            offset, skipping = 0, False
            data, length = self._read(agent_id, 0, CHUNK)
        lines: list[bytes] = []
        if not skipping and len(data) >= _LINE_BYTES and b"\n" not in data[:_LINE_BYTES]:
            # The beginning of a line that is longer than any we keep is all that is kept of it.
            lines, data, skipping = [data[:_LINE_BYTES]], data[_LINE_BYTES:], True
            offset += _LINE_BYTES
        if length - offset > CHUNK:
            dropped_bytes += length - CHUNK - offset
            offset, skipping = length - CHUNK, True
            data, _ = self._read(agent_id, offset, CHUNK)
        if skipping and data:
            # Without a newline all of it belongs to the line that is skipped.
            end_of_line = data.find(b"\n") + 1
            offset += end_of_line or len(data)
            data, skipping = (data[end_of_line:], False) if end_of_line else (b"", True)
        # An unfinished line waits for its end, unless the agent will not write it any more.
        end = len(data) if final else data.rfind(b"\n") + 1
        lines += [line for line in data[:end].split(b"\n") if line.strip()]
        if len(lines) > room:
            dropped_lines += len(lines) - room
            dropped_bytes += sum(len(line) + 1 for line in lines[:-room])
            lines = lines[-room:]
        shipped = [text for line in lines if (text := _clean(line)).strip()]
        if dropped_bytes and shipped:
            count = f" in {dropped_lines} lines or more" if dropped_lines else ""
            shipped.insert(
                0, f"[at least {dropped_bytes} bytes{count} are left out here: the agent printed too much at once]"
            )
            dropped_lines = dropped_bytes = 0
        if shipped:
            await self._store.append_logs(agent_id, shipped, self._keep, offset + end)
        file.offset, file.skipping = offset + end, skipping
        file.dropped_lines, file.dropped_bytes = dropped_lines, dropped_bytes
        # guard: ship-rate
        file.lines = max(0.0, file.lines - len(lines))


def _clean(line: bytes) -> str:
    """Return a line as text that is one line wherever it is shown, and no longer than LINE."""
    # guard: shipped-line
    return _CONTROL.sub("", _ESCAPE.sub("", line[:_LINE_BYTES].decode(errors="replace")))[:LINE]
