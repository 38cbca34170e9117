"""The word of a node that stops, to its own agents: by a file in RUN_DIR, because Redis may be away when it is said.

It counts only as long as the process that has said it lives, by a lock that the kernel takes away with it: what a
killed node has left says nothing to the agents of the next one. The file has a fixed size and is written in place, so
that the word can be said when the disk is full. Moments are of the monotonic clock, which the processes of one machine
share.
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
class Word:
    """When agents are to say goodbye, and when their calls are over."""

    goodbye_at: float
    over_at: float


def _path(run_dir: Path) -> Path:
    return run_dir / "parting.json"


class Speaker:
    """Whoever may say the word: one process of a node, from its start to its end."""

    def __init__(self, run_dir: Path) -> None:
        self._file = os.open(_path(run_dir), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # whoever reads has it for a moment only
        self.take_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def say(self, word: Word) -> None:
        """Have the node's agents part."""
        self._write(json.dumps(asdict(word)))

    def take_back(self) -> None:
        """Have them go on, those who have not parted yet."""
        self._write("")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # unsaid: the calls end with the drain, without a goodbye
            os.pwrite(self._file, text.encode().ljust(_SIZE), 0)


def heard(run_dir: Path) -> Word | None:
    """Return what the node in `run_dir` has to say to its agents; None while it does not stop."""
    try:
        file = os.open(_path(run_dir), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(file, _SIZE).strip()
        # guard: parting-of-another
        return Word(**json.loads(text)) if text and not _nobodys(file) else None
    except (OSError, ValueError, TypeError):
        return None
    finally:
        os.close(file)


def _nobodys(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
