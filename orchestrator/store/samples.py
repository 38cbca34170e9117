"""Durations that this process measures itself: collected, and written to Redis a little later, many at a time."""

import asyncio
import contextlib

from orchestrator.errors import StoreUnavailable
from orchestrator.store.loader import Scripts

#: Seconds for which durations are collected before they are written, so that no request waits for the write.
COLLECT_SECONDS = 0.25


class Samples:
    """What is to be counted into the histograms. What Redis does not take is given up."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._waiting: list[str | float] = []
        self._writing: asyncio.Task[None] | None = None

    def add(self, series: str, seconds: float) -> None:
        """Count one duration, soon."""
        self._waiting += (series, round(seconds * 1000, 3))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_soon())

    async def _write_soon(self) -> None:
        await asyncio.sleep(COLLECT_SECONDS)
        await self.write()

    async def write(self) -> None:
        """Write what has been collected."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            with contextlib.suppress(StoreUnavailable):
                await self._scripts.call("observe", args=waiting)

    async def close(self) -> None:
        """Write the remaining samples."""
        if self._writing:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self.write()
