"""A pseudo-terminal, like that of a user who has logged in."""

import contextlib
import fcntl
import os
import pty
import select
import termios
import time
from typing import Any


class Terminal:
    """A terminal. A process started with `popen`'s arguments has it as its controlling terminal, in a new session."""

    def __init__(self) -> None:
        self._ours, self._theirs = pty.openpty()
        self._said = b""

    @property
    def popen(self) -> dict[str, Any]:
        """Arguments for `subprocess.Popen`."""
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), self._theirs)
        return ends | {"preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)}

    def started(self) -> None:
        """Close our copy of the other end, so that only the started process holds it."""
        os.close(self._theirs)

    def said(self) -> str:
        """Return what was written to it so far."""
        while select.select([self._ours], [], [], 0)[0]:
            try:
                self._said += os.read(self._ours, 65_536)
            except OSError:
                break
        return self._said.decode(errors="replace")

    def stop_output(self) -> None:
        """Do what Ctrl-S does: writes to the terminal block."""
        fcntl.ioctl(self._theirs, termios.TCXONC, termios.TCOOFF)

    def fill(self) -> None:
        """Write until its buffer is full, as nothing reads it."""
        flags = fcntl.fcntl(self._theirs, fcntl.F_GETFL)
        fcntl.fcntl(self._theirs, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        deadline = time.monotonic() + 10
        with contextlib.suppress(BlockingIOError):
            while time.monotonic() < deadline:
                os.write(self._theirs, b"x" * 100)
        fcntl.fcntl(self._theirs, fcntl.F_SETFL, flags)

    def close(self) -> None:
        """Close it, like a dropped ssh connection."""
        with contextlib.suppress(OSError):
            os.close(self._ours)
