"""Whether this node has the memory and the disk for one more agent."""

import contextlib
import os
from collections.abc import Callable

from orchestrator.machine.memory import headroom_bytes
from orchestrator.settings import Settings
from orchestrator.store import Store

MEMORY_SECONDS = 2.0
#: Bytes of RUN_DIR's disk that must be free for an agent's record and its log.
DISK_BYTES = 1 << 20


class Headroom:
    """The free memory and disk of one node."""

    def __init__(self, settings: Settings, free_bytes: Callable[[], int | None] = headroom_bytes) -> None:
        self._settings, self._free_bytes = settings, free_bytes
        #: Why no agent can be started here, when last measured; '' when one can.
        self.shortage = self.measure()

    def measure(self) -> str:
        """Measure again, and return `shortage`."""
        self.shortage = self._memory_shortage() or self._disk_shortage()
        return self.shortage

    def spare_bytes(self) -> int | None:
        """Return the memory that further agents may take here; None where that is not known."""
        free = self._free_bytes()
        return None if free is None else free - (self._settings.memory_headroom_mb << 20)

    def _disk_shortage(self) -> str:
        # The next host cannot find an agent that could not write its record.
        with contextlib.suppress(OSError):
            disk = os.statvfs(self._settings.run_dir)
            free = disk.f_bavail * disk.f_frsize
            if disk.f_blocks and free < DISK_BYTES:
                return f"the disk of RUN_DIR={self._settings.run_dir} is full: {free >> 10} KiB are free"
        return ""

    def _memory_shortage(self) -> str:
        floor, free = self._settings.memory_headroom_mb, self._free_bytes()
        # guard: memory-floor
        if not floor or free is None or free >= floor << 20:
            return ""
        return f"{free >> 20} MiB of memory are free, MEMORY_HEADROOM_MB is {floor}"


class HeadroomReport:
    """Reports to the store whether this node can start an agent."""

    def __init__(self, node: str, store: Store, headroom: Headroom, refill: Callable[[], None]) -> None:
        self._node, self._store, self._headroom, self._refill = node, store, headroom, refill

    async def report(self) -> None:
        """Report whether this node can start one more agent, and admit waiting sessions."""
        before, now = self._headroom.shortage, self._headroom.measure()
        await self._store.report_memory(self._node, now, hold_seconds=int(3 * MEMORY_SECONDS))
        await self._store.admit_waiting()
        if before and not now:
            self._refill()
