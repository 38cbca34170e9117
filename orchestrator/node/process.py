"""What a process is and whether it lives: identity by (boot id, pid, start ticks), never by a bare pid.

`psutil.pid_exists` is true for zombies and for a stranger who got the number; `create_time` moves with the clock.
"""

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

#: Flags of a process on its way out (Linux, include/linux/sched.h), and SIGKILL in its set of pending signals.
_PF_EXITING, _PF_SIGNALED = 0x4, 0x400
_SIGKILL_PENDING = 1 << (signal.SIGKILL - 1)


@cache
def machine_boot_id() -> str:
    """Return an id of this boot of this machine (of this container, where it has its own boot)."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return str(int(psutil.boot_time()))


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that no other process of this boot can be mistaken for."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """Return the identity of a pid; None when there is no such process, or it is a zombie or dying already."""
        if sys.platform != "linux":
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    return cls(pid, int(process.create_time() * 1000))
            return None
        try:
            # The name in field 2 may hold spaces and brackets: count from the last bracket. See proc(5).
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, flags, start_ticks, pending = fields[0], int(fields[6]), int(fields[19]), int(fields[28])
        # A killed process is still there while the kernel takes its memory apart, for milliseconds.
        dying = flags & (_PF_EXITING | _PF_SIGNALED) or pending & _SIGKILL_PENDING
        return None if state in "ZX" or dying else cls(pid, start_ticks)

    @property
    def alive(self) -> bool:
        """Whether exactly this process runs."""
        return ProcessId.of(self.pid) == self

    def signal_group(self, number: signal.Signals) -> bool:
        """Send a signal to the process group this process leads; False when the process is gone."""
        if not self.alive:
            return False
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True
