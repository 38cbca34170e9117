"""The agent host's state folder: a record and a log file per agent, so that the next host finds what was left."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.node.protocol import Death, Process, encode

log = logging.getLogger("orchestrator.host")


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
        """Write a record; whoever reads it sees the old one or the new one, never half of it."""
        path = self._record(record.agent_id)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"kind": type(record).__name__, **encode(record)}))
        temporary.rename(path)

    def records(self) -> Iterator[Process | Death]:
        """Return every record that can be read; drops the others."""
        for path in self._path.glob("*.json"):
            try:
                fields = json.loads(path.read_text())
                kind = {"Process": Process, "Death": Death}[fields.pop("kind")]
                yield kind(**fields)
            except (ValueError, TypeError, KeyError):
                log.warning("dropped unreadable record %s", path.name)
                path.unlink()

    def forget(self, agent_id: str) -> None:
        """Remove the record and the log file of an agent."""
        self._record(agent_id).unlink(missing_ok=True)
        self._log(agent_id).unlink(missing_ok=True)

    def open_log(self, agent_id: str) -> int:
        """Return a descriptor of the agent's log file. O_APPEND: it may be cut while the agent writes to it."""
        return os.open(self._log(agent_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def bound_log(self, agent_id: str, limit: int) -> None:
        """Cut the log file of an agent when it is larger than `limit` bytes."""
        path = self._log(agent_id)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > limit:
                os.truncate(path, 0)
