"""Copies the programs' output to standard output, where a platform collects a container's logs."""

import os
import select
from typing import Any

from orchestrator.node.terminal import PIPE_BYTES, unblocked

#: Bytes after which a line without an end is written.
_MAX_LINE = 65_536


class LogStream:
    """Copies whole lines of several programs to one file descriptor.

    It never blocks, so that a log collector that hangs does not stop supervisord. Lines that are not taken are dropped
    and counted.
    """

    def __init__(self, descriptor: int, *, named: bool) -> None:
        self._descriptor = unblocked(descriptor)
        self._named = named  #: each line begins with its program's name
        self._partial: dict[str, bytes] = {}
        self._dropped = 0
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    def take(self, event: Any) -> None:
        """Take a program's output from supervisord (a ProcessLogEvent)."""
        name, data = event.process.config.name, event.data
        text = self._partial.get(name, b"") + (data if isinstance(data, bytes) else data.encode())
        *lines, rest = text.split(b"\n")
        if len(rest) > _MAX_LINE:
            lines, rest = [*lines, rest], b""
        self._partial[name] = rest
        for line in lines:
            self._write(name, line)

    def flush(self) -> None:
        """Write the last lines of programs that have not ended them."""
        for name, rest in self._partial.items():
            if rest:
                self._write(name, rest)
        self._partial.clear()

    def _write(self, name: str, line: bytes) -> None:
        if self._dropped and self._writable():
            dropped, self._dropped = self._dropped, 0
            self._write("supervisord", f"{dropped} lines dropped: the output was not read".encode())
        data = (f"{name}: ".encode() if self._named else b"") + line + b"\n"
        for start in range(0, len(data), PIPE_BYTES):
            if not self._writable():
                self._dropped += 1
                return
            try:
                os.write(self._descriptor, data[start : start + PIPE_BYTES])
            except OSError:  # the reader has gone
                self._dropped += 1
                return

    def _writable(self) -> bool:
        return any(flags & select.POLLOUT for _, flags in self._poll.poll(0))
