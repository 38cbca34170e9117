"""What a process is and whether it lives: identity by (boot id, pid, start ticks), never by a bare pid.

`psutil.pid_exists` is true for zombies and for a stranger who got the number; `create_time` moves with the clock.
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
class Look:
    """What one look at a pid showed."""

    dying: bool  #: a zombie, or on its way there
    parent: int
    group: int
    session: int
    start_ticks: int


def look(pid: int) -> Look | None:
    """Look at a process, zombies included; None when there is none of this number."""
    if sys.platform != "linux":
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            dying, started = process.status() == psutil.STATUS_ZOMBIE, int(process.create_time() * 1000)
            return Look(dying, process.ppid(), os.getpgid(pid), os.getsid(pid), started)
        return None
    try:
        # The name in field 2 may hold spaces and brackets: count from the last bracket. See proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A killed process is still there while the kernel takes its memory apart, for milliseconds.
    dying = fields[0] in "ZX" or int(fields[6]) & (_PF_EXITING | _PF_SIGNALED) or int(fields[28]) & _SIGKILL_PENDING
    return Look(bool(dying), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def kill_strays(agent_ids: Collection[str]) -> None:
    """Kill what these dead agents have started and sent into sessions of its own.

    It is known by the AGENT_ID that it was started with. Linux only; elsewhere nothing is found.
    """
    marks = {f"AGENT_ID={agent_id}".encode() for agent_id in agent_ids}
    for pid in psutil.pids() if marks and sys.platform == "linux" else ():
        with contextlib.suppress(OSError):  # gone, or somebody else's
            # Held before it is looked at: the number may be given away in between.
            pidfd = os.pidfd_open(pid)
            try:
                if not marks.isdisjoint(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)


def may_live(here: str, node: str, pid: int, start_ticks: int) -> bool:
    """Return whether an agent may live, as far as the node `here` can tell; start ticks of 0 are not known."""
    # guard: process-alive
    if node != here or not pid:
        return True  # only its own node can tell
    identity = ProcessId.of(pid)
    return identity is not None and (not start_ticks or identity.start_ticks == start_ticks)


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that no other process of this boot can be mistaken for."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """Return the identity of a pid; None when there is no such process, or it is a zombie or dying already."""
        # Twice: the kernel reads the flags before the pending signals, and a kill moves from these to those.
        for _ in range(2):
            seen = look(pid)
            if seen is None or seen.dying:
                return None
        assert seen is not None
        return cls(pid, seen.start_ticks)

    @property
    def alive(self) -> bool:
        """Whether exactly this process runs."""
        # guard: process-start
        return ProcessId.of(self.pid) == self

    @property
    def is_child(self) -> bool:
        """Whether this is a child of the calling process, which may be waiting to be reaped."""
        seen = look(self.pid)
        return seen is not None and seen.parent == os.getpid() and seen.start_ticks == self.start_ticks

    def signal_group(self, number: signal.Signals) -> bool:
        """Send a signal to the process group this process leads; False when the process is gone."""
        if not self.alive:
            return False
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def kill_left_behind(self) -> bool:
        """Kill the process group that this process has led, now that it is dead; False when there is nothing to kill.

        The kernel gives a pid away only when no group and no session has its number either, so a group of this
        number without a leader is this one's. A group with a leader again is a stranger's.
        """
        leader = look(self.pid)
        if leader is not None and (leader.start_ticks != self.start_ticks or not leader.dying):
            return False
        if not any(self._has_member(pid) for pid in psutil.pids()):
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        return True

    @property
    def leads_others(self) -> bool:
        """Whether others live in the group that this process leads, or has led."""
        return any(pid != self.pid and self._has_member(pid) for pid in psutil.pids())

    def _has_member(self, pid: int) -> bool:
        seen = look(pid)
        return (
            seen is not None
            and seen.group == seen.session == self.pid
            and not seen.dying
            and seen.start_ticks >= self.start_ticks
        )
