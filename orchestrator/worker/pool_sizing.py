"""Sets the pool's target by how many starts arrive (POOL_AUTO)."""

import logging
from collections.abc import Callable

from orchestrator.pool import refill
from orchestrator.settings import Settings
from orchestrator.states import AgentState
from orchestrator.store import Reading, Store

log = logging.getLogger("orchestrator.worker.pool_sizing")

SIZING_SECONDS = 5.0


class PoolSizing:
    """The sizing by one node."""

    def __init__(self, settings: Settings, store: Store, refill: Callable[[], None]) -> None:
        self._settings, self._store, self._refill = settings, store, refill

    async def size(self) -> None:
        """Set the target, once a boot has been measured."""
        settings = self._settings
        boot, _ = await self._store.means()
        if boot is None:
            return
        rate, reading = await self._store.arrivals(), await self._store.reading()
        target, why = refill.target_size(
            rate, boot, pool_min=settings.pool_min, pool_max=settings.pool_max, memory_for=_room(reading)
        )
        before = reading.counts["target"]
        await self._store.set_sizing(target, why)
        if target != before:
            log.info("pool target %d → %d: %s", before, target, why)
            self._refill()


def _room(reading: Reading) -> int | None:
    """Return for how many warm agents all nodes have memory; None when that is not known."""
    checks = reading.health_checks.values()
    sizes = [check.memory_bytes for check in checks if check.memory_bytes is not None]
    # A node that is short takes nothing away from the others.
    spare_bytes = [max(0, node.spare_bytes) for node in reading.nodes.values() if node.spare_bytes is not None]
    if not spare_bytes or not any(sizes):
        return None
    warm = sum(agent.state is AgentState.READY for agent in reading.agents)
    return max(0, warm + int(sum(spare_bytes) / (sum(sizes) / len(sizes))))
