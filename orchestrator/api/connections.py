"""How many connections the api keeps, for how long, and which one is closed when there are too many.

A connection has a deadline while it waits for a whole request. It has none while the request is served, as long as the
client reads the answer.

Beyond the limit, of one address or in all, the connection that has waited longest for its client is closed. When every
connection is being served, the new one is refused.
"""

import asyncio
import logging
import resource
import time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("orchestrator.api")

#: Open files besides the connections of clients: Redis, LiveKit, logs, the page.
OTHER_FILES = 128
#: Connections at once, where the machine's limit of open files allows more.
MOST = 16_384
#: Seconds between two checks for late connections.
CHECK_SECONDS = 0.5
#: Seconds between two log lines about the same kind of refusal: any client can cause them.
LOG_SECONDS = 60.0


class Connection(Protocol):
    """One connection of a client."""

    host: str  #: the client's address
    peer: str  #: what limits count it by

    def check(self, now: float) -> None:
        """Close it when it is late by the event loop's clock."""

    def abort(self) -> None:
        """Close it at once, whatever is in progress."""


def raise_file_limit() -> int:
    """Raise this process's limit of open files to what the machine allows; returns how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(OTHER_FILES, wanted - OTHER_FILES)


class Refusals:
    """Logs refusals: one line a minute for each kind, with the number of those that were not logged."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged: dict[str, float] = {}
        self._more: dict[str, int] = {}

    def log(self, kind: str, cause: str) -> None:
        """Log a refusal, unless one of its kind was just logged."""
        now = self._clock()
        if now - self._logged.get(kind, -LOG_SECONDS) < LOG_SECONDS:
            self._more[kind] = self._more.get(kind, 0) + 1
            return
        self._logged[kind] = now
        log.warning("refused: %s", cause, extra={"kind": kind, "more_before": self._more.pop(kind, 0)})


class Connections:
    """All connections of one server.

    Args:
        max_connections: connections at once.
        per_address: connections at once of one address; 0: no bound.
        exempt: returns whether an address has no bound of its own: proxies have none.
    """

    def __init__(self, max_connections: int, per_address: int = 0, exempt: Callable[[str], bool] | None = None) -> None:
        self._max_connections, self._per_address, self._exempt = max_connections, per_address, exempt
        self._everyone: set[Connection] = set()
        self._of: dict[str, dict[Connection, None]] = {}  #: of each address, the oldest first
        self._waiting: dict[Connection, None] = {}  #: for their clients, the longest wait first
        self._timer: asyncio.TimerHandle | None = None
        self.refusals = Refusals()

    def __len__(self) -> int:
        return len(self._everyone)

    def admit(self, new: Connection) -> bool:
        """Accept a new connection; False when it must be refused."""
        mine = self._of.get(new.peer, {})
        # guard: connections-per-address
        if len(mine) >= self._per_address > 0 and not (self._exempt and self._exempt(new.host)):
            self.refusals.log("address", f"{new.peer} has {len(mine)} connections (CONNECTIONS_PER_ADDRESS)")
            if not self._close(next((each for each in mine if each in self._waiting), None)):
                return False
        # guard: connections
        if len(self._everyone) >= self._max_connections:
            self.refusals.log(
                "connections", f"{self._max_connections} connections are open: the limit of open files allows no more"
            )
            if not self._close(next(iter(self._waiting), None)):
                return False
        self._everyone.add(new)
        self._of.setdefault(new.peer, {})[new] = None
        self._waiting[new] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check)
        return True

    def mark_waiting(self, connection: Connection) -> None:
        """Note that a connection waits for its client from now on."""
        if connection in self._everyone:
            self._waiting[connection] = None

    def mark_served(self, connection: Connection) -> None:
        """Note that a connection's request is complete."""
        self._waiting.pop(connection, None)

    def remove(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self._everyone.discard(connection)
        self._waiting.pop(connection, None)
        if mine := self._of.get(connection.peer):
            mine.pop(connection, None)
            if not mine:
                del self._of[connection.peer]

    def _close(self, victim: Connection | None) -> bool:
        if victim is None:
            return False
        self.remove(victim)
        victim.abort()
        return True

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._everyone):
            connection.check(now)
        self._timer = loop.call_later(CHECK_SECONDS, self._check) if self._everyone else None
