"""Examines agent processes from outside: zombie, wrong start time, too large. Silence is a deadline in Redis.

It measures the process that the agent host has started and its descendants: the process may be a wrapper.
"""

import contextlib
from dataclasses import dataclass, replace

import psutil

from orchestrator.machine.process import ProcessId
from orchestrator.models import Agent
from orchestrator.reasons import Reason, because


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one examination of an agent. Memory in bytes; `fault` is None for a healthy agent."""

    fault: Reason | None
    memory: int = 0
    cpu_seconds: float = 0.0
    threads: int = 0


def examine(agent: Agent, memory_limit: int) -> Finding:
    """Examine the process of an agent of this node; `memory_limit` in bytes."""
    if agent.pid is None:
        return Finding(None)
    identity = ProcessId.of(agent.pid)
    if identity is None:
        return Finding(because("zombie"))
    if agent.start_ticks is not None and identity.start_ticks != agent.start_ticks:
        return Finding(because("pid_reused"))
    try:
        process = psutil.Process(agent.pid)
        finding = _measure(process)
        for descendant in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has ended
                more = _measure(descendant)
                finding = Finding(
                    None, finding.memory + more.memory, finding.cpu_seconds + more.cpu_seconds,
                    finding.threads + more.threads,
                )  # fmt: skip
    except psutil.NoSuchProcess:
        return Finding(because("zombie"))
    # guard: only-deadline-ends
    if finding.memory <= memory_limit:
        return finding
    fault = because("memory_limit", memoryMib=finding.memory >> 20, limitMib=memory_limit >> 20)
    return replace(finding, fault=fault)


def _measure(process: psutil.Process) -> Finding:
    with process.oneshot():
        full = process.memory_full_info()
        cpu = process.cpu_times()
        return Finding(None, getattr(full, "uss", full.rss), cpu.user + cpu.system, process.num_threads())
