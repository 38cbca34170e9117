"""Whose terminal a node has, and how it is written to by a process that nothing may hold up or end."""

import contextlib
import io
import os
import select
import signal
import sys
from typing import TextIO

#: Bytes that a pipe which is writable takes without blocking (POSIX: PIPE_BUF).
PIECE = 512 if sys.platform == "darwin" else 4096


def hangup_stops() -> bool:
    """Return whether a SIGHUP means that this process's terminal was closed. To be asked at its start.

    Not under nohup, which has it ignored, and not without a terminal: then it is no more than somebody's guess that
    something is read again.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return False
    # One that was held back is of a terminal that is no longer there to be found.
    return signal.SIGHUP in signal.sigpending() or _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def unblocked(descriptor: int) -> int:
    """Return a descriptor for what this one writes to; of a terminal one that does not block, whoever else uses it.

    A terminal that counts as writable may have room for less than a line, and one that was stopped (Ctrl-S, a frozen
    ssh) has none for as long as that lasts.
    """
    with contextlib.suppress(OSError):
        if os.isatty(descriptor):
            return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return descriptor


class Patient(io.TextIOBase):
    """Text for whoever reads it: what is not taken at once is dropped, and a reader who has gone is no error."""

    def __init__(self, stream: TextIO) -> None:
        self._named = stream.encoding
        self._shown = stream.fileno()
        self._descriptor = unblocked(self._shown)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As the stream's in whose place it is."""
        return self._named

    def fileno(self) -> int:
        """Return the descriptor of the stream in whose place it is."""
        return self._shown

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._shown)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str, /) -> int:
        """Write what is taken now."""
        data = text.encode(self._named, errors="replace")
        with contextlib.suppress(OSError):
            for start in range(0, len(data), PIECE):
                if not any(flags & select.POLLOUT for _, flags in self._poll.poll(0)):
                    break
                os.write(self._descriptor, data[start : start + PIECE])
        return len(text)
