"""Looks at agent processes from outside: zombie, wrong start time, too large. Silence is a deadline in Redis."""

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


def examine(agent: Agent, *, memory_limit: int) -> Finding:
    """Examine the process of an agent of this node; `memory_limit` in bytes."""
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
    if memory <= memory_limit:
        return finding
    fault = f"private memory {memory >> 20} MiB over the limit of {memory_limit >> 20} MiB"
    return Finding(fault, finding.memory, finding.cpu_seconds, finding.threads)
