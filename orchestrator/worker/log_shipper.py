"""Ships what agents print from their log files to Redis.

An agent writes to a file, never to a pipe: a pipe fills up and blocks, and breaks when its reader dies. One shipper
per node follows all files, for Python agents and plain command lines alike, crashes included.

Failure cases: Redis gone → nothing moves, the newest part is shipped later; an agent that floods → its newest lines
and a line about what is missing; a line without an end → its beginning; a file that the host has cut → it is read
from its beginning.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.clock import SYSTEM_CLOCK, Clock
from orchestrator.store import Store
from orchestrator.worker.log_chunks import LINE_BYTES, Progress, clean, next_chunk

SHIP_SECONDS = 0.25
#: Lines of one agent that are shipped per second, and after a pause at once.
LINES_PER_SECOND = 500
#: Last lines of dead agents that are kept until they are asked for.
_KEEP_LAST = 256


@dataclass(slots=True)
class _File:
    """How far one agent's file is shipped."""

    progress: Progress | None = None  #: None: where the last shipper stopped is not known yet
    lines: float = LINES_PER_SECOND  #: that may be shipped now
    refilled: float = 0.0
    #: A dead agent's last lines are shipped concurrently with the regular round; each needs the other's progress.
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
                # An agent that died meanwhile has its last lines and a closing line shipped already.
                if self._files.get(agent_id) is file:
                    await self._ship(agent_id, file, final=False)

    async def finish(self, agent_id: str, last_words: str) -> None:
        """Ship the rest of a dead agent's file and a closing line."""
        self.follow(agent_id)
        file = self._files[agent_id]
        async with file.lock:
            await self._ship(agent_id, file, final=True)
            await self._store.append_logs(agent_id, [last_words], self._keep)
            await self._store.close_log(agent_id)
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
        data, _ = self._read(agent_id, -2 * LINE_BYTES, 2 * LINE_BYTES)
        lines = (clean(line) for line in reversed(data.split(b"\n")))
        return next((line for line in lines if line.strip()), "")

    async def _ship(self, agent_id: str, file: _File, *, final: bool) -> None:
        if file.progress is None:
            file.progress = Progress(await self._store.log_offset(agent_id))
        most = LINES_PER_SECOND if final else self._allowed(file)
        if not most:
            return
        chunk = next_chunk(file.progress, lambda start, size: self._read(agent_id, start, size), most, final=final)
        if chunk.lines:
            await self._store.append_logs(agent_id, chunk.lines, self._keep, chunk.progress.offset)
        file.progress = chunk.progress
        # guard: ship-rate
        file.lines = max(0.0, file.lines - chunk.counted)

    def _allowed(self, file: _File) -> int:
        """Return how many lines of a file may be shipped now."""
        now = self._clock.monotonic()
        file.lines = min(LINES_PER_SECOND, file.lines + (now - file.refilled) * LINES_PER_SECOND)
        file.refilled = now
        return int(file.lines)
