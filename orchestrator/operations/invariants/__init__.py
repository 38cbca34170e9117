"""The invariants of a deployment: compares Redis, the agent host and the operating system."""

import asyncio
import time
from collections.abc import Iterable, Iterator

from orchestrator.errors import HostUnavailable
from orchestrator.host.client import HostClient
from orchestrator.host.protocol import Process
from orchestrator.machine.process import ProcessId
from orchestrator.models import Agent
from orchestrator.operations import census
from orchestrator.operations.invariants.records import in_records
from orchestrator.operations.invariants.violation import TRANSIENT, Code, Violation, violation
from orchestrator.settings import Settings
from orchestrator.states import AgentState
from orchestrator.store import Snapshot, Store

__all__ = ["CHECK_SECONDS", "TRANSIENT", "Code", "Violation", "check", "in_records"]

#: Seconds between two checks.
CHECK_SECONDS = 0.5


async def check(
    store: Store, settings: Settings, host: HostClient | None, *, settle_seconds: float = 10
) -> list[Violation]:
    """Return the violations; [] when every invariant holds.

    State changes during a check: only violations that every check within `settle_seconds` finds are returned.

    Args:
        settings: those of the node whose processes are checked. The records of all nodes are checked.
        host: the agent host of that node. None: its list of processes is not compared.
    """
    deadline = time.monotonic() + settle_seconds
    found = await _violations(store, settings, host)
    while found and (left := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(CHECK_SECONDS, left))
        again = {each.text for each in await _violations(store, settings, host)}
        found = [each for each in found if each.text in again]
    return found


async def _violations(store: Store, settings: Settings, host: HostClient | None) -> list[Violation]:
    seen = await store.snapshot()
    living = [agent for agent in seen.agents.values() if agent.state is not AgentState.EXITED]
    mine = [agent for agent in living if agent.node == settings.node_id]
    found = [*in_records(seen, settings.policy), *_processes(mine)]
    present = await asyncio.to_thread(census.take, settings)
    found += [violation(Code.ZOMBIE, pid=pid, parent=parent) for pid, parent in present.zombies.items()]
    if host is not None:
        try:
            listed, _ = await host.hello()
        except HostUnavailable as failure:
            return [*found, violation(Code.HOST_UNAVAILABLE, detail=failure.detail)]
        found += [*_known(seen, mine, listed), *_strangers(present, listed)]
    return found


def _processes(mine: Iterable[Agent]) -> Iterator[Violation]:
    for agent in mine:
        if agent.pid is None:
            if agent.state is not AgentState.STARTING:
                yield violation(Code.NO_PID, agent=agent.id, state=agent.state)
        elif agent.start_ticks is None:
            yield violation(Code.NO_START_TIME, agent=agent.id, state=agent.state, pid=agent.pid)
        elif not ProcessId(agent.pid, agent.start_ticks).alive:
            yield violation(Code.PROCESS_GONE, agent=agent.id, state=agent.state, pid=agent.pid)


def _known(seen: Snapshot, mine: Iterable[Agent], listed: Iterable[Process]) -> Iterator[Violation]:
    pids = {process.agent_id: process.pid for process in listed}
    for agent_id, pid in pids.items():
        agent = seen.agents.get(agent_id)
        if agent is None or agent.state is AgentState.EXITED:
            state = agent.state if agent else None
            yield violation(Code.PROCESS_OF_EXITED_AGENT, pid=pid, agent=agent_id, found=state)
        elif agent.pid not in {None, pid}:
            yield violation(Code.TWO_PIDS, agent=agent_id, recorded=agent.pid, pid=pid)
    for agent in mine:
        if agent.pid is not None and agent.id not in pids:
            yield violation(Code.AGENT_UNKNOWN_TO_HOST, agent=agent.id, state=agent.state)


def _strangers(present: census.Census, listed: Iterable[Process]) -> Iterator[Violation]:
    known = {process.agent_id for process in listed}
    for pid, agent_id in present.agents.items():
        if agent_id not in known:
            yield violation(Code.PROCESS_UNKNOWN_TO_HOST, pid=pid, agent=agent_id)
