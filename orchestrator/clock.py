"""What time it is, and how to wait. A component takes a clock, so that a test can give it one that it moves itself."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Clock(Protocol):
    """A source of time and of waits."""

    def time(self) -> float:
        """Return Unix seconds."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some moment; it never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        ...

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Cancel what runs inside after some seconds and raise `TimeoutError`."""
        ...


class SystemClock:
    """The machine's clock and the event loop's waits."""

    def time(self) -> float:
        """Return Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since some moment; it never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Cancel what runs inside after some seconds and raise `TimeoutError`."""
        return asyncio.timeout(seconds)


SYSTEM_CLOCK = SystemClock()
