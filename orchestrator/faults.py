"""Named points at which a test makes a process die, hang or fail. Outside of tests a point is one dictionary lookup.

With FAULT_LOG (a path) every point that is passed is a line of that file. FAULTS is a comma list of `point:action` or
`point:action@N`, N times in all processes together (1 when not said). Actions: `kill` (SIGKILL to itself), `hang`
(SIGSTOP to itself), `raise` (OrchestratorError).
"""

import contextlib
import os
import signal
from pathlib import Path

from orchestrator.errors import OrchestratorError

#: Every point, and what happens there.
POINTS: dict[str, str] = {
    # guard: fault-points
    "host.after_fork": "the agent host has started an agent process and has not yet registered it",
    "worker.after_claim": "the Celery worker has claimed an agent for its node and has not yet had it started",
    "worker.after_spawn": "an agent process runs, and the Celery worker has not yet written its pid to Redis",
    "watch.before_record_death": "the Celery worker knows of a death that is not in Redis yet",
    "watch.before_ack": "a death is in Redis, and the agent host has no acknowledgement",
    "watch.after_due": "Redis has acted on missed deadlines, and the actions outside Redis are not done",
    "api.after_assign": "a session waits, and the task that starts its agent is not queued",
    "agent.before_ready": "an agent has loaded, and has not said that it is warm",
    "agent.before_join": "an agent has its session, and has not begun to join the room",
    "agent.joined": "an agent is in the room and has said so",
}
ACTIONS = frozenset({"kill", "hang", "raise"})

_log: Path | None = None
_faults: tuple[tuple[str, str, int], ...] = ()


def arm() -> None:
    """Read FAULT_LOG and FAULTS again. Raises `ValueError` on a fault that could never happen."""
    global _log, _faults  # noqa: PLW0603 - one process, one set of faults
    path = os.environ.get("FAULT_LOG")
    _log = Path(path) if path else None
    faults = os.environ.get("FAULTS", "") if _log else ""
    _faults = tuple(_parse(fault.strip()) for fault in faults.split(",") if fault.strip())


def hit(point: str) -> None:
    """Pass a point. Raises `OrchestratorError` when a test asked for it."""
    assert point in POINTS, point
    if _log is not None:
        _pass(_log, point)


def _parse(fault: str) -> tuple[str, str, int]:
    point, _, action = fault.partition(":")
    action, _, times = action.partition("@")
    if point not in POINTS or action not in ACTIONS:
        raise ValueError(f"no such fault: {fault}")
    return point, action, int(times or 1)


def _pass(path: Path, point: str) -> None:
    with path.open("a") as file:
        file.write(point + "\n")
    for named, action, times in _faults:
        if named == point and _first(path, f"{point}.{action}", times):
            if action == "raise":
                raise OrchestratorError(f"fault at {point}")
            os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)


def _first(path: Path, name: str, times: int) -> bool:
    """Whether this is one of the first `times` passes, in whatever process: each takes a marker of its own."""
    for number in range(times):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(f"{path}.{name}.{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            return True
    return False


arm()
