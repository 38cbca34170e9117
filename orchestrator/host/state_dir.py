"""The agent host's state folder: a record and a log file per agent, so that the next host finds what was left."""

import contextlib
import ctypes
import json
import logging
import os
import sys
import time
from collections.abc import Container, Iterator
from pathlib import Path

from orchestrator.host.protocol import Death, Process, encode

log = logging.getLogger("orchestrator.host")

#: fallocate(2): FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE.
_PUNCH_HOLE = 3

#: Seconds after which a half-written record has been abandoned.
_ABANDONED = 60.0


def _punch(path: Path, size: int) -> bool:
    """Free the disk of the first `size` bytes of a file that is written to; False where that cannot be done."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        return bool(libc.fallocate(file, _PUNCH_HOLE, 0, size) == 0)
    finally:
        os.close(file)


class AgentFolder:
    """Records and log files of the agents of one node."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _record(self, agent_id: str) -> Path:
        return self._path / f"{agent_id}.json"

    def _log(self, agent_id: str) -> Path:
        return self._path / f"{agent_id}.log"

    def write(self, record: Process | Death) -> None:
        """Write a record; a reader sees the old one or the new one, never half of it. Raises `OSError`."""
        self._write(record).rename(self._record(record.agent_id))

    def claim(self, process: Process) -> None:
        """Write the first record of an agent.

        Raises:
            FileExistsError: another process has this agent's id already.
            OSError: the disk is full.
        """
        temporary = self._write(process)
        try:
            # link() fails where rename() would replace: of two processes of one agent the second one gives up.
            # guard: record-once
            os.link(temporary, self._record(process.agent_id))
        except FileExistsError:
            if self.read(process.agent_id) != process:
                raise
        finally:
            temporary.unlink()

    def _write(self, record: Process | Death) -> Path:
        temporary = self._path / f"{record.agent_id}.{os.getpid()}.tmp"
        try:
            temporary.write_text(json.dumps({"kind": type(record).__name__, **encode(record)}))
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def read(self, agent_id: str) -> Process | Death | None:
        """Return an agent's record; None when there is none. One that cannot be read is dropped."""
        path = self._record(agent_id)
        try:
            fields = json.loads(path.read_text())
            kind: type[Process | Death] = {"Process": Process, "Death": Death}[fields.pop("kind")]
            return kind(**fields)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            log.warning("dropped unreadable record %s", path.name)
            path.unlink()
            return None

    def records(self, known: Container[str] = ()) -> Iterator[Process | Death]:
        """Return every record, but those of known agents."""
        for path in self._path.glob("*.json"):
            if path.stem not in known and (record := self.read(path.stem)):
                yield record

    def tidy(self) -> None:
        """Remove what processes left that were killed while they wrote."""
        for path in self._path.glob("*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - _ABANDONED:
                    path.unlink()

    def forget(self, agent_id: str) -> None:
        """Remove the record and the log file of an agent."""
        self._record(agent_id).unlink(missing_ok=True)
        self._log(agent_id).unlink(missing_ok=True)

    def open_log(self, agent_id: str) -> int:
        """Return a descriptor of the agent's log file. O_APPEND: it may be cut while the agent writes to it."""
        return os.open(self._log(agent_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def bound_log(self, agent_id: str, limit: int) -> int:
        """Free the disk of an agent's oldest output when its log file takes more than `limit` bytes; returns its size.

        The newer half of `limit` stays, at its place: what is freed reads as zeros. If that is impossible, nothing
        stays.
        """
        path = self._log(agent_id)
        try:
            status = path.stat()
            # guard: newest-output
            if status.st_blocks * 512 > limit and not _punch(path, status.st_size - limit // 2):
                os.truncate(path, 0)
            return status.st_size
        except FileNotFoundError:
            return 0

    def last_line(self, agent_id: str) -> str:
        """Return the last line of an agent's log file that is not blank."""
        try:
            with self._log(agent_id).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
                lines = file.read().decode(errors="replace").split("\n")
        except FileNotFoundError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
