"""Log files of supervisord that survive a full disk: a line that cannot be written is lost, and nothing else fails.

supervisord's own handlers print a traceback on the terminal for each line, keep the unwritten text in a buffer whose
flush fails again when the file is closed, raise in the middle of a rotation, and refuse to start a program whose log
cannot be opened.
"""

import contextlib
import errno
import os
from functools import partial
from typing import Any

from supervisor import loggers

#: Errors of a disk that cannot be written to.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


class LogFile(loggers.RotatingFileHandler):  # type: ignore[misc] # supervisor has no types
    """A log file; rotated when `max_bytes` is not 0."""

    def __init__(self, path: str, max_bytes: int = 0, backups: int = 0) -> None:
        self._lost = False
        try:
            super().__init__(path, "ab", max_bytes, backups)
        except OSError as failure:
            if failure.errno not in _FULL:
                raise
            super().__init__(os.devnull, "ab", max_bytes, backups)
            self.baseFilename, self._lost = path, True

    def emit(self, record: Any) -> None:
        """Write a line. If opening the file or rotating it failed before, open it first."""
        with contextlib.suppress(OSError, ValueError):
            if self._lost or self.stream.closed:
                self.reopen()
                self._lost = False
            super().emit(record)

    def handleError(self) -> None:
        """Drop the line."""

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError, ValueError):
            super().close()
        self.closed = True


def _handle_file(logger: Any, filename: str, fmt: str, rotating: bool = False, **bounds: int) -> None:
    handler = LogFile(filename, bounds.get("maxbytes", 0) if rotating else 0, bounds.get("backups", 0))
    handler.setFormat(fmt)
    handler.setLevel(logger.level)
    logger.addHandler(handler)


def install() -> None:
    """Make supervisord use these files for its own log and for its programs' logs."""
    loggers.handle_file = _handle_file
    # Without a buffer nothing is left to be written, and to fail, when the file is closed. supervisord opens its log
    # files with this function.
    loggers.open = partial(open, buffering=0)
