"""The lines between an agent's process and its program: one JSON object each. docs/agent-protocol.md describes them."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("agent.program")

#: Longest line that is read, in bytes. The rest of a longer one is dropped.
MAX_LINE = 1 << 20
#: What a program may say. All else that it prints is its log.
KNOWN = frozenset("ready joined user turn audible log leave failed pong".split())


def encode(kind: str, **fields: Any) -> bytes:
    """Return one line to the program."""
    return json.dumps({"type": kind, **fields}, ensure_ascii=False).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any] | None:
    """Return what a line of the program says; None where it is one of its log."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kind = message.get("type")
    return message if isinstance(kind, str) and kind in KNOWN else None


class LineReader(asyncio.Protocol):
    """Splits what arrives into lines. `closed` is done when no more will come."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take, self._rest, self._dropping = take, b"", False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Take every complete line."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if not self._dropping:
                self._take(line)
            self._dropping = False
        # guard: program-line
        if len(self._rest) > MAX_LINE:
            if not self._dropping:
                log.warning("dropped a line of more than %d bytes", MAX_LINE)
            self._rest, self._dropping = b"", True

    def connection_lost(self, _: Exception | None) -> None:
        """Take what was left without an end of line."""
        if self._rest and not self._dropping:
            self._take(self._rest)
        if not self.closed.done():
            self.closed.set_result(None)
