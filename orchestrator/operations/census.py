"""The processes that run on this machine for a node, as the operating system lists them, independent of records."""

from dataclasses import dataclass, field

import psutil

from orchestrator.config.node import NodeSettings
from orchestrator.host.protocol import Process
from orchestrator.host.state_dir import AgentFolder
from orchestrator.machine.process import ProcessId, machine_boot_id


@dataclass(slots=True)
class Census:
    """The processes of one node."""

    agents: dict[int, str] = field(default_factory=dict)  #: agent id by pid, including processes that an agent started
    zombies: dict[int, str] = field(default_factory=dict)  #: its parent, as text, by pid of a dead, unreaped child


def take(settings: NodeSettings) -> Census:
    """Read every process of this machine. Blocks for some ten milliseconds.

    AGENT_ID in its environment identifies an agent that was started by exec. A forked agent still has its host's
    environment; its record in the state folder identifies it. Only root can read the environment of a sealed program,
    which is a child of this node's supervisord.
    """
    census = Census()
    folder = settings.agents_dir
    for record in AgentFolder(folder).records() if folder.is_dir() else ():
        here = isinstance(record, Process) and record.boot_id == machine_boot_id()
        if here and ProcessId(record.pid, record.start_ticks).alive:
            census.agents[record.pid] = record.agent_id
    programs: dict[int, psutil.Process] = {}
    dead: list[psutil.Process] = []
    supervised = _supervised(settings)
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                dead.append(process)
                continue
            # guard: sealed-census
            environment = _started_with(process, settings.node_id if process.pid in supervised else "")
        except (psutil.Error, OSError):
            continue  # it has ended, or belongs to another user
        if environment.get("NODE_ID") != settings.node_id:
            continue
        if agent_id := environment.get("AGENT_ID"):
            census.agents[process.pid] = agent_id
        elif process.pid not in census.agents:
            programs[process.pid] = process
    for process in dead:
        try:
            if parent := programs.get(process.ppid()):
                census.zombies[process.pid] = f"{parent.name()} (pid {parent.pid})"
        except psutil.Error:
            continue
    return census


def _started_with(process: psutil.Process, node_id: str) -> dict[str, str]:
    """Return a process's environment; for a sealed program, the part that is known. Raises `psutil.Error`."""
    try:
        return process.environ()
    except psutil.AccessDenied:
        return {"NODE_ID": node_id}


def _supervised(settings: NodeSettings) -> set[int]:
    """Return the pids of this node's supervisord and of its child processes."""
    try:
        supervisord = psutil.Process(int((settings.run_dir / "supervisord.pid").read_text()))
        return {supervisord.pid, *(child.pid for child in supervisord.children())}
    except (psutil.Error, OSError, ValueError):
        return set()
