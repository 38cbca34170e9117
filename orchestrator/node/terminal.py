"""The node's terminal: whether there is one, and how to write to it without being blocked or ended."""

import contextlib
import io
import os
import select
import signal
import sys
from typing import TextIO

#: Bytes that a writable pipe takes without blocking (POSIX: PIPE_BUF).
PIPE_BYTES = 512 if sys.platform == "darwin" else 4096


def hangup_stops() -> bool:
    """Return whether a SIGHUP means that this process's terminal was closed. Call it at the start.

    It does not under nohup, which ignores the signal, nor without a terminal: then somebody wants a reload.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return False
    # A pending one comes from a terminal that has already disappeared.
    return signal.SIGHUP in signal.sigpending() or _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def unblocked(descriptor: int) -> int:
    """Return a descriptor for the same output; for a terminal, a new one that does not block.

    A terminal that counts as writable may have space for less than a line, and one that is stopped (Ctrl-S, a frozen
    ssh) has none. The flag must not affect other programs that use the terminal.
    """
    with contextlib.suppress(OSError):
        if os.isatty(descriptor):
            return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return descriptor


class NonBlockingText(io.TextIOBase):
    """A text stream that drops what the reader does not take at once. A missing reader is no error."""

    def __init__(self, stream: TextIO) -> None:
        self._encoding = stream.encoding
        self._original = stream.fileno()
        self._descriptor = unblocked(self._original)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream that this one replaces."""
        return self._encoding

    def fileno(self) -> int:
        """Return the descriptor of the stream that this one replaces."""
        return self._original

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._original)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str, /) -> int:
        """Write what is taken now, and drop the rest."""
        data = text.encode(self._encoding, errors="replace")
        with contextlib.suppress(OSError):
            for start in range(0, len(data), PIPE_BYTES):
                if not any(flags & select.POLLOUT for _, flags in self._poll.poll(0)):
                    break
                os.write(self._descriptor, data[start : start + PIPE_BYTES])
        return len(text)
