"""Fault points of a running node, armed one at a time.

A fault happens once: when its marker beside FAULT_LOG does not exist yet. So a node's FAULTS name every fault, all
markers are created before the node starts, and removing a marker arms that fault in all of the node's processes.
"""

from pathlib import Path

from orchestrator.faults import ACTIONS, POINTS
from tests.support.processes import poll

#: For the setting FAULTS.
EVERY = ",".join(f"{point}:{action}" for point in POINTS for action in sorted(ACTIONS))
_DISARMED = "not armed"


class Armed:
    """The faults of one node. Create it before the node starts."""

    def __init__(self, log: Path) -> None:
        self.log = log
        for point in POINTS:
            for action in ACTIONS:
                self._marker(point, action).write_text(_DISARMED)

    def arm(self, point: str, action: str) -> None:
        """Make this fault happen at the next pass of its point, in any process of the node."""
        self._marker(point, action).unlink()

    def happened(self, point: str, action: str) -> bool:
        """Return whether an armed fault has happened."""
        marker = self._marker(point, action)
        return marker.exists() and not marker.read_text()

    def wait(self, point: str, action: str, seconds: float = 30) -> None:
        """Wait until an armed fault has happened."""
        poll(lambda: self.happened(point, action), f"{action} at {point}", seconds)

    def _marker(self, point: str, action: str) -> Path:
        return self.log.with_name(f"{self.log.name}.{point}.{action}.0")


def happened(folder: Path) -> set[str]:
    """Return the points at which a fault has happened, from all logs of a folder."""
    return {point for point in POINTS if any(not marker.read_text() for marker in folder.glob(f"*.{point}.*"))}
