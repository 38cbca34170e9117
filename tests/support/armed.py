"""Fault points of a running node, armed one at a time.

A fault happens while its marker beside FAULT_LOG can be made, once. So a node's FAULTS name every fault there is,
markers are there before it starts, and to take one away is to arm that fault in all of its processes.
"""

from pathlib import Path

from orchestrator.faults import ACTIONS, POINTS
from tests.support.processes import poll

#: For the setting FAULTS.
EVERY = ",".join(f"{point}:{action}" for point in POINTS for action in sorted(ACTIONS))
_DISARMED = "not armed"


class Armed:
    """The faults of one node. Make it before the node starts."""

    def __init__(self, log: Path) -> None:
        self.log = log
        for point in POINTS:
            for action in ACTIONS:
                self._marker(point, action).write_text(_DISARMED)

    def arm(self, point: str, action: str) -> None:
        """Have this fault happen at the next pass of its point, in whatever process."""
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
    """Return the points at which something has really happened, in all logs of a folder."""
    return {point for point in POINTS if any(not marker.read_text() for marker in folder.glob(f"*.{point}.*"))}
