"""The notice of a stopping node to its own agents: a file in RUN_DIR, because Redis may be unavailable.

The notice is valid only while the process that wrote it lives. The kernel releases that process's lock at its end, so
that a killed node's notice means nothing to the agents of the next one. The file has a fixed size and is written in
place, which works on a full disk. Times are of the monotonic clock, which the processes of one machine share.
"""

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

_SIZE = 256


@dataclass(frozen=True, slots=True)
class Notice:
    """When agents say goodbye, and when their calls end."""

    goodbye_at: float
    over_at: float


def _path(run_dir: Path) -> Path:
    return run_dir / "parting.json"


class NoticeWriter:
    """The process of a node that may write the notice, from its start to its end."""

    def __init__(self, run_dir: Path) -> None:
        self._file = os.open(_path(run_dir), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # readers hold it only briefly
        self.withdraw()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def publish(self, notice: Notice) -> None:
        """Tell the node's agents to leave."""
        self._write(json.dumps(asdict(notice)))

    def withdraw(self) -> None:
        """Tell the remaining agents to continue."""
        self._write("")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # without a notice the calls end with the drain, without a goodbye
            os.pwrite(self._file, text.encode().ljust(_SIZE), 0)


def read(run_dir: Path) -> Notice | None:
    """Return the notice of the node in `run_dir`; None while the node does not stop."""
    try:
        file = os.open(_path(run_dir), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(file, _SIZE).strip()
        # guard: parting-of-another
        return Notice(**json.loads(text)) if text and _has_writer(file) else None
    except (OSError, ValueError, TypeError):
        return None
    finally:
        os.close(file)


def _has_writer(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
