"""What the programs print, on this process's standard output: where a platform collects a container's logs."""

import os
import select
from typing import Any

from orchestrator.node.terminal import PIECE, unblocked

#: Bytes of a line that does not end.
_LONGEST = 65_536


class LogStream:
    """Copies lines of several programs to one file descriptor, each whole.

    It never blocks: a log collector that hangs must not keep supervisord from its work. What nobody takes is dropped,
    and counted.
    """

    def __init__(self, descriptor: int, *, named: bool) -> None:
        self._descriptor = unblocked(descriptor)
        self._named = named  #: each line begins with its program's name
        self._begun: dict[str, bytes] = {}
        self._dropped = 0
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    def take(self, event: Any) -> None:
        """Take what supervisord says that a program has printed (a ProcessLogEvent)."""
        name, data = event.process.config.name, event.data
        text = self._begun.get(name, b"") + (data if isinstance(data, bytes) else data.encode())
        *lines, rest = text.split(b"\n")
        if len(rest) > _LONGEST:
            lines, rest = [*lines, rest], b""
        self._begun[name] = rest
        for line in lines:
            self._write(name, line)

    def flush(self) -> None:
        """Write what the programs have left without an end of line."""
        for name, rest in self._begun.items():
            if rest:
                self._write(name, rest)
        self._begun.clear()

    def _write(self, name: str, line: bytes) -> None:
        if self._dropped and self._writable():
            dropped, self._dropped = self._dropped, 0
            self._write("supervisord", f"{dropped} lines dropped: nobody took them".encode())
        whole = (f"{name}: ".encode() if self._named else b"") + line + b"\n"
        for start in range(0, len(whole), PIECE):
            if not self._writable():
                self._dropped += 1
                return
            try:
                os.write(self._descriptor, whole[start : start + PIECE])
            except OSError:  # nobody reads any more
                self._dropped += 1
                return

    def _writable(self) -> bool:
        return any(flags & select.POLLOUT for _, flags in self._poll.poll(0))
