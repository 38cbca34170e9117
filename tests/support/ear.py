"""Measures the silence in a call."""

import asyncio
import time
from types import TracebackType

from orchestrator.call.caller import Call

_LOOK = 0.02
#: A sample that is this late is ignored: the listener itself did not get to run.
_LATE = 0.15


class Ear:
    """Measures the longest silence of a call that hums, from entry to exit; `silence` is in seconds."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.silence = 0.0
        self._listening: asyncio.Task[None]

    async def __aenter__(self) -> "Ear":
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK)
            now = time.monotonic()
            if now - before < _LOOK + _LATE:
                self.silence = max(self.silence, now - self._call.last_sound)
            before = now
