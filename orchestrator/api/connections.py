"""How many connections the api keeps, for how long, and which of them goes when there are too many.

A connection waits for its caller until a whole request is there: then it has a deadline. While it is served it has
none, as long as its caller takes what is sent.

Where there are too many, of one address or in all, the one goes that has waited longest for its caller: what is silent
makes room for what asks. Where all are served, the new one is refused.
"""

import asyncio
import logging
import resource
import time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("orchestrator.api")

#: Open files that are no connections of callers: Redis, LiveKit, logs, the page.
OTHER_FILES = 128
#: Connections at once, where the machine gives files for more.
MOST = 16_384
#: Seconds between two looks at what is late.
LOOK_SECONDS = 0.5
#: Seconds between two lines in the log about the same kind of refusal: anybody may cause them.
SAY_SECONDS = 60.0


class Connection(Protocol):
    """What is known of one connection."""

    host: str  #: where it comes from
    peer: str  #: what that is counted by

    def look(self, now: float) -> None:
        """Do what is due by the event loop's clock."""

    def abort(self) -> None:
        """Close it at once, whatever is under way."""


def raise_file_limit() -> int:
    """Raise this process's limit of open files to what the machine gives; returns how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(OTHER_FILES, wanted - OTHER_FILES)


class Refusals:
    """Says in the log what was refused: one line a minute for each kind, with how many there were."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}
        self._more: dict[str, int] = {}

    def say(self, kind: str, cause: str) -> None:
        """Say that something of a kind was refused, unless that was just said."""
        now = self._clock()
        if now - self._said.get(kind, -SAY_SECONDS) < SAY_SECONDS:
            self._more[kind] = self._more.get(kind, 0) + 1
            return
        self._said[kind] = now
        log.warning("refused: %s", cause, extra={"kind": kind, "more_before": self._more.pop(kind, 0)})


class Connections:
    """All connections of one server.

    Args:
        most: connections at once.
        per_address: connections at once of one address; 0: no bound.
        exempt: says which addresses have no bound of their own: proxies.
    """

    def __init__(self, most: int, per_address: int = 0, exempt: Callable[[str], bool] | None = None) -> None:
        self._most, self._per_address, self._exempt = most, per_address, exempt
        self._everyone: set[Connection] = set()
        self._of: dict[str, dict[Connection, None]] = {}  #: of each address, the oldest first
        self._waiting: dict[Connection, None] = {}  #: for their callers, the one that has waited longest first
        self._looking: asyncio.TimerHandle | None = None
        self.refusals = Refusals()

    def __len__(self) -> int:
        return len(self._everyone)

    def admit(self, new: Connection) -> bool:
        """Take a new connection; False when there is no room for it."""
        mine = self._of.get(new.peer, {})
        if len(mine) >= self._per_address > 0 and not (self._exempt and self._exempt(new.host)):
            self.refusals.say("address", f"{new.peer} has {len(mine)} connections (CONNECTIONS_PER_ADDRESS)")
            if not self._make_room(next((each for each in mine if each in self._waiting), None)):
                return False
        if len(self._everyone) >= self._most:
            self.refusals.say(
                "connections", f"{self._most} connections are open: the limit of open files allows no more"
            )
            if not self._make_room(next(iter(self._waiting), None)):
                return False
        self._everyone.add(new)
        self._of.setdefault(new.peer, {})[new] = None
        self._waiting[new] = None
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        return True

    def waits(self, connection: Connection) -> None:
        """Note that a connection waits for its caller from now on."""
        if connection in self._everyone:
            self._waiting[connection] = None

    def served(self, connection: Connection) -> None:
        """Note that a connection's request is there."""
        self._waiting.pop(connection, None)

    def gone(self, connection: Connection) -> None:
        """Forget a connection."""
        self._everyone.discard(connection)
        self._waiting.pop(connection, None)
        if mine := self._of.get(connection.peer):
            mine.pop(connection, None)
            if not mine:
                del self._of[connection.peer]

    def _make_room(self, victim: Connection | None) -> bool:
        if victim is None:
            return False
        self.gone(victim)
        victim.abort()
        return True

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._everyone):
            connection.look(now)
        self._looking = loop.call_later(LOOK_SECONDS, self._look) if self._everyone else None
