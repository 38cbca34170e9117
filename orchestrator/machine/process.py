"""The identity of a process, (boot id, pid, start ticks), and whether it lives. A bare pid identifies nothing.

`psutil.pid_exists` is true for zombies and for another process that got the number; `create_time` moves with the clock.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

#: Flags of a process that is exiting (Linux, include/linux/sched.h), and SIGKILL in its set of pending signals.
_PF_EXITING, _PF_SIGNALED = 0x4, 0x400
_SIGKILL_PENDING = 1 << (signal.SIGKILL - 1)


@cache
def machine_boot_id() -> str:
    """Return an id of this boot of this machine (of this container, where it has its own boot)."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return str(int(psutil.boot_time()))


@dataclass(frozen=True, slots=True)
class ProcStat:
    """The state of a process at one moment."""

    dying: bool  #: a zombie, or exiting
    parent: int
    group: int
    session: int
    start_ticks: int


def read_stat(pid: int) -> ProcStat | None:
    """Return the state of a process, zombies included; None if there is none with this pid."""
    if sys.platform != "linux":
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            dying, started = process.status() == psutil.STATUS_ZOMBIE, int(process.create_time() * 1000)
            return ProcStat(dying, process.ppid(), os.getpgid(pid), os.getsid(pid), started)
        return None
    try:
        # The name in field 2 may hold spaces and brackets: count from the last bracket. See proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A killed process exists for some milliseconds more, while the kernel frees its memory.
    dying = fields[0] in "ZX" or int(fields[6]) & (_PF_EXITING | _PF_SIGNALED) or int(fields[28]) & _SIGKILL_PENDING
    return ProcStat(bool(dying), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def kill_strays(agent_ids: Collection[str]) -> None:
    """Kill processes that these dead agents have started in sessions of their own.

    They are recognised by the AGENT_ID in their environment. Linux only; elsewhere none are found.
    """
    marks = {f"AGENT_ID={agent_id}".encode() for agent_id in agent_ids}
    for pid in psutil.pids() if marks and sys.platform == "linux" else ():
        with contextlib.suppress(OSError):  # gone, or another user's
            # Opened before the check: the pid may be reused in between.
            pidfd = os.pidfd_open(pid)
            try:
                if not marks.isdisjoint(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)


def may_live(here: str, node: str, pid: int, start_ticks: int) -> bool:
    """Return whether an agent may live, as far as the node `here` can tell. Start ticks of 0 are unknown."""
    # guard: process-alive
    if node != here or not pid:
        return True  # only its own node can check that
    identity = ProcessId.of(pid)
    return identity is not None and (not start_ticks or identity.start_ticks == start_ticks)


@dataclass(frozen=True, slots=True)
class ProcessId:
    """The identity of a process, unique during one boot."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """Return the identity of a pid; None if there is no such process, or it is a zombie or dying."""
        # Twice: the kernel reads the flags before the pending signals, and a kill moves from the latter to the former.
        for _ in range(2):
            process = read_stat(pid)
            if process is None or process.dying:
                return None
        assert process is not None
        return cls(pid, process.start_ticks)

    @property
    def alive(self) -> bool:
        """Whether this very process runs."""
        # guard: process-start
        return ProcessId.of(self.pid) == self

    @property
    def is_child(self) -> bool:
        """Whether this is a child of the calling process, possibly one to be reaped."""
        process = read_stat(self.pid)
        return process is not None and process.parent == os.getpid() and process.start_ticks == self.start_ticks

    def signal_group(self, number: signal.Signals) -> bool:
        """Send a signal to the process group that this process leads; False if the process is gone."""
        if not self.alive:
            return False
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def kill_left_behind(self) -> bool:
        """Kill the process group that this dead process has led; False if there is nothing to kill.

        The kernel reuses a pid only if no group and no session has its number either. So a group of this number without
        a leader is this process's group; with a living leader it is another one.
        """
        leader = read_stat(self.pid)
        if leader is not None and (leader.start_ticks != self.start_ticks or not leader.dying):
            return False
        if not any(self._has_member(pid) for pid in psutil.pids()):
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        return True

    @property
    def leads_others(self) -> bool:
        """Whether other processes live in the group that this process leads or has led."""
        return any(pid != self.pid and self._has_member(pid) for pid in psutil.pids())

    def _has_member(self, pid: int) -> bool:
        process = read_stat(pid)
        return (
            process is not None
            and process.group == process.session == self.pid
            and not process.dying
            and process.start_ticks >= self.start_ticks
        )
