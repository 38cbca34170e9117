"""Looks at agent processes from outside: zombie, wrong start time, silent, too large."""

from dataclasses import dataclass

import psutil

from orchestrator.models import Agent
from orchestrator.node.process import ProcessId


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look at an agent showed. Memory in bytes; `fault` None when it is fit."""

    fault: str | None
    memory: int = 0
    cpu_seconds: float = 0.0
    threads: int = 0


def examine(agent: Agent, now: float, *, silent_seconds: float, memory_limit: int) -> Finding:
    """Examine the process of an agent of this node; `now` is Redis's clock."""
    if agent.pid is None:
        return Finding(None)
    identity = ProcessId.of(agent.pid)
    if identity is None:
        return Finding("process gone or zombie")
    if agent.start_ticks is not None and identity.start_ticks != agent.start_ticks:
        return Finding("pid belongs to another process")
    try:
        process = psutil.Process(agent.pid)
        with process.oneshot():
            full = process.memory_full_info()
            memory = getattr(full, "uss", full.rss)
            cpu = process.cpu_times()
            finding = Finding(None, memory, cpu.user + cpu.system, process.num_threads())
    except psutil.NoSuchProcess:
        return Finding("process gone or zombie")
    if agent.last_beat is not None and now - agent.last_beat > silent_seconds:
        fault = f"no heartbeat for {now - agent.last_beat:.0f} s"
    elif memory > memory_limit:
        fault = f"private memory {memory >> 20} MiB over the limit of {memory_limit >> 20} MiB"
    else:
        return finding
    return Finding(fault, finding.memory, finding.cpu_seconds, finding.threads)
