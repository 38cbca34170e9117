"""The health check of this node's agents: each process is examined, and an unfit one is stopped."""

import logging
from collections.abc import Callable

from orchestrator.models import Agent
from orchestrator.pool.assignment import MayLive
from orchestrator.reasons import Reason
from orchestrator.settings import Settings
from orchestrator.states import AgentState
from orchestrator.store import Store
from orchestrator.worker.examine import Finding
from orchestrator.worker.pool_keeper import PoolKeeper
from orchestrator.worker.stops import Stops

log = logging.getLogger("orchestrator.worker.checks")

#: Examines one agent's process; the number is the limit of its private memory in bytes.
Examine = Callable[[Agent, int], Finding]


class Checks:
    """The health check of one node."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        stops: Stops,
        pool: PoolKeeper,
        examine: Examine,
        may_live: MayLive,
    ) -> None:
        self._settings, self._store, self._stops, self._pool = settings, store, stops, pool
        self._examine, self._may_live = examine, may_live

    async def check(self) -> int:
        """Examine every agent process of this node; returns how many were unfit."""
        now = await self._store.now()
        unfit = 0
        for agent in await self._store.agents():
            if agent.node != self._settings.node_id or agent.state is AgentState.STOPPING:
                continue
            finding = self._examine(agent, self._settings.agent_memory_limit_mb << 20)
            await self._store.record_health(agent.id, _record(finding, int(now)))
            # guard: health-check
            if finding.fault is not None:
                unfit += 1
                await self._end(agent, finding.fault)
        await self._pool.refill()
        return unfit

    async def _end(self, agent: Agent, fault: Reason) -> None:
        log.warning("unfit agent", extra={"agent_id": agent.id, "fault": fault.text})
        await self._store.retire_unfit(agent.id, fault)
        if await self._stops.here(agent.id) or not agent.pid:
            return
        if not self._may_live(self._settings.node_id, agent.pid, 0):
            await self._store.record_exit(agent.id, fault)


def _record(finding: Finding, now: int) -> dict[str, str | int | float]:
    return {
        "last_check": now,
        "status": finding.fault.text if finding.fault else "ok",
        "memory_bytes": finding.memory,
        "cpu_seconds": round(finding.cpu_seconds, 2),
        "threads": finding.threads,
    }
