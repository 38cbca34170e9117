"""Which programs of this node restart often: the supervisor writes this, the heartbeat and the api read it.

One small file in RUN_DIR, of a fixed size and written in place, so that it can still be written when the disk is full.
It must hold no secret: the last words of a program are what it has printed.
"""

import contextlib
import json
import os
import time
from collections import defaultdict, deque
from pathlib import Path

from orchestrator.reasons import HealthWarning, warn

#: Ends within `WINDOW` from which on a program counts as restarting often.
MANY = 3
_KEPT = 8
#: Seconds after which an end is forgotten; minimum seconds of life after which a program counts as well again.
WINDOW, STEADY = 600.0, 12.0
_SIZE = 8192
_WORDS = 300


def _path(run_dir: Path) -> Path:
    return run_dir / "restarts.json"


class Ends:
    """The ends of each program, as the supervisor records them."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._at: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))
        self._words: dict[str, str] = {}
        self._write()

    def note(self, name: str, words: str) -> None:
        """Record that a program has ended, and its last output."""
        self._at[name].append(time.time())
        self._words[name] = words[:_WORDS]
        self._write()

    def _write(self) -> None:
        rows = {name: {"ends": list(at), "words": self._words[name]} for name, at in self._at.items()}
        content = json.dumps(rows).encode().ljust(_SIZE)
        with contextlib.suppress(OSError):
            file = os.open(_path(self._run_dir), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(file, content, 0)
                os.ftruncate(file, len(content))
            finally:
                os.close(file)


def troubles(run_dir: Path, now: float | None = None) -> list[HealthWarning]:
    """Return which programs of the node in `run_dir` are started again and again."""
    try:
        content = json.loads(_path(run_dir).read_bytes() or b"{}")
        rows = {str(name): ([float(at) for at in row["ends"]], str(row["words"])) for name, row in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []  # no supervisor, or it is writing the file
    warnings = (
        _trouble(name, ends, words, time.time() if now is None else now) for name, (ends, words) in rows.items()
    )
    return [warning for warning in warnings if warning]


def _trouble(name: str, ends: list[float], words: str, now: float) -> HealthWarning | None:
    recent = [at for at in ends if now - at < WINDOW]
    if len(recent) < MANY:
        return None
    life = (recent[-1] - recent[0]) / (len(recent) - 1)
    if now - recent[-1] > max(STEADY, 2 * life):
        return None  # it has lived longer than it used to
    return warn("program_restarts", program=name, times=len(recent), seconds=round(now - recent[0]), detail=words)
