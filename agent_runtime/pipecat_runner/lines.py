"""The line contract: JSON objects, one a line, over an inherited socket or over standard input and output."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any, Self

#: Longest line, with room for its end.
LINE_BYTES = 2**20 + 2


class Lines:
    """Both directions. Sending works before the event loop runs too, because the bot's file is imported before it."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    def inherited(cls) -> Self:
        """Take the socket of `AGENT_FD`; without it standard input and output, and what the bot prints is its log."""
        if number := os.environ.pop("AGENT_FD", ""):
            reading = writing = int(number)
            os.set_inheritable(reading, False)
        else:
            reading, writing = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        sys.stdout.flush()
        os.dup2(2, 1)
        return cls(reading, writing)

    def send(self, kind: str, **values: Any) -> None:
        """Send one message. A node that is gone is noticed by reading."""
        line = json.dumps({"type": kind, **values}, ensure_ascii=False).encode(errors="replace") + b"\n"
        if self._writer:
            self._writer.write(line)
            return
        while line:
            line = line[os.write(self._writing, line) :]

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what the node sends, until it closes its end."""
        reader = await self._open()
        while line := await reader.readline():
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if isinstance(message, dict):
                yield message
            else:
                self.send("log", level="warning", message="ignored a line that is no JSON object")

    async def _open(self) -> asyncio.StreamReader:
        if self._reading == self._writing:
            sock = socket.socket(fileno=self._reading)
            reader, self._writer = await asyncio.open_connection(sock=sock, limit=LINE_BYTES)
            return reader
        reader = asyncio.StreamReader(limit=LINE_BYTES)
        pipe = os.fdopen(self._reading, "rb", buffering=0)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        return reader

    async def flush(self) -> None:
        """Wait until everything is sent."""
        if self._writer:
            self._writer.transport.set_write_buffer_limits(0)  # drain waits for the last byte
            await self._writer.drain()
