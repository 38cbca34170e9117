"""Ships what agents print from their log files to Redis.

An agent writes to a file, never to a pipe: a pipe fills up and blocks, and breaks when its reader dies. One shipper
per node follows all files, for Python agents and plain command lines alike, crashes included.
"""

import re
from pathlib import Path

from orchestrator.store import Store

#: Bytes taken from one file at a time, and the longest line kept.
CHUNK = 262_144
LINE = 4_000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class LogShipper:
    """Follows the log files of one node's agents."""

    def __init__(self, store: Store, folder: Path, keep_lines: int) -> None:
        self._store, self._folder, self._keep = store, folder, keep_lines
        self._offsets: dict[str, int] = {}
        self._last: dict[str, str] = {}

    def follow(self, agent_id: str) -> None:
        """Follow an agent's file from where the last shipper stopped."""
        self._offsets.setdefault(agent_id, -1)

    async def ship_all(self) -> None:
        """Ship what was added to every followed file. Raises `StoreUnavailable`; nothing is skipped then."""
        for agent_id in list(self._offsets):
            await self._ship(agent_id, final=False)

    async def finish(self, agent_id: str, last_words: str) -> None:
        """Ship the rest of a dead agent's file and a closing line."""
        self.follow(agent_id)
        while await self._ship(agent_id, final=True):
            pass
        await self._store.append_logs(agent_id, [last_words], self._keep)
        del self._offsets[agent_id]

    def last_line(self, agent_id: str) -> str:
        """Return the last line a finished agent printed, once."""
        return self._last.pop(agent_id, "")

    async def _ship(self, agent_id: str, *, final: bool) -> bool:
        offset = self._offsets[agent_id]
        if offset < 0:
            offset = await self._store.log_offset(agent_id)
        try:
            with (self._folder / f"{agent_id}.log").open("rb") as file:
                size = file.seek(0, 2)
                if size < offset:
                    offset = 0  # the host cut the file
                if size - offset > 4 * CHUNK:
                    offset = size - CHUNK  # a flood: only its newest part is kept
                file.seek(offset)
                data = file.read(CHUNK)
        except FileNotFoundError:
            data = b""
        # An unfinished line waits for its end, unless it is longer than any line we keep or the last one.
        end = len(data) if final or (len(data) == CHUNK and b"\n" not in data) else data.rfind(b"\n") + 1
        self._offsets[agent_id] = offset
        if not end:
            return False
        lines = [_CONTROL.sub("", line)[:LINE] for line in data[:end].decode(errors="replace").splitlines()]
        lines = [line for line in lines if line.strip()]
        if lines:
            await self._store.append_logs(agent_id, lines, self._keep, offset + end)
            if final:
                self._last[agent_id] = lines[-1]
        self._offsets[agent_id] = offset + end
        return True
