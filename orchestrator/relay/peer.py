"""Which agent the process at the other end of a connection is: an agent speaks for itself only.

The kernel names the process that has connected, and the agent host's record names the agent's. They are the same, or
the agent's process is a wrapper, and the other one a descendant or a member of its session.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.host.protocol import Process
from orchestrator.host.state_dir import AgentFolder
from orchestrator.machine.process import machine_boot_id, read_stat

#: No process has more ancestors.
_DEPTH = 256


def lineage(pid: int) -> Iterator[int]:
    """Yield the pid of a process and those of its ancestors."""
    for _ in range(_DEPTH):
        if pid <= 0 or (process := read_stat(pid)) is None:
            return
        yield pid
        pid = process.parent


def is_agent(pid: int | None, agent_id: str, folder: AgentFolder) -> bool:
    """Return whether a process is an agent's, as far as this system can say."""
    record = folder.read(agent_id)
    if not isinstance(record, Process) or record.boot_id != machine_boot_id():
        return False
    if pid is None:
        return True
    leader, process = read_stat(record.pid), read_stat(pid)
    if process is None or (leader is not None and leader.start_ticks != record.start_ticks):
        return False
    # The kernel gives no new process the number of a session that has members.
    in_session = process.session == record.pid and process.start_ticks >= record.start_ticks
    return in_session or (leader is not None and record.pid in lineage(pid))


def runs_as(pid: int, agent_id: str) -> bool:
    """Return whether a process was started with an agent's id: a program that its agent's wrapper has left behind."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"AGENT_ID=" + os.fsencode(agent_id) in environment
