"""Wakes listeners when something has changed: one blocking read of Redis for all listeners of an api process.

A listener is only woken and reads the state itself, so it misses nothing when it is slow or when Redis is away.
Failure cases: Redis away → every listener is woken when it is back; the api stops → `closed`, and every stream ends, so
that no open connection delays the stop.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator

from orchestrator.errors import StoreUnavailable, TooManyListeners
from orchestrator.store import Store

log = logging.getLogger("orchestrator.api")

#: Open streams of one session, and of one api process.
SESSION_LISTENERS = 8
LISTENERS = 1000
RETRY_SECONDS = 0.5


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, for at most `seconds`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()


class ChangeFeed:
    """One for each api process. `run` is its background task."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listeners: defaultdict[str | None, set[asyncio.Event]] = defaultdict(set)
        self.closed = asyncio.Event()

    @contextlib.contextmanager
    def listen(self, session_id: str | None = None) -> Iterator[asyncio.Event]:
        """Provide an event that is set when something happens to a session; with None, to any session or agent.

        Clear it, then read. Raises `TooManyListeners`.
        """
        mine = self._listeners[session_id]
        everyone = sum(len(listeners) for listeners in self._listeners.values())
        if everyone >= LISTENERS or (session_id is not None and len(mine) >= SESSION_LISTENERS):
            raise TooManyListeners(retry_after=10)
        changed = asyncio.Event()
        mine.add(changed)
        try:
            yield changed
        finally:
            mine.discard(changed)
            if not mine:
                self._listeners.pop(session_id, None)

    def close(self) -> None:
        """End every stream, because the api stops."""
        self.closed.set()
        self._wake(*list(self._listeners))

    async def run(self) -> None:
        """Listen to Redis until `close`, or until the task is cancelled."""
        last: str | None = None
        while not self.closed.is_set():
            try:
                if last is None:
                    last = await self._store.last_change()
                    self._wake(*list(self._listeners))
                last, sessions = await self._store.changes(last)
                if sessions is not None:
                    self._wake(None, *sessions)
            # guard: feed-survives
            except Exception as failure:  # the feed must outlast any failure
                if not isinstance(failure, StoreUnavailable):
                    log.exception("reading changes failed; trying again")
                last = None
                await wait_for_event(self.closed, RETRY_SECONDS)

    def _wake(self, *names: str | None) -> None:
        for name in names:
            for changed in self._listeners.get(name, ()):
                changed.set()
