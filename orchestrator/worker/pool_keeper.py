"""Keeps the pool at its target from this node: at every wake-up that the store queues, and whenever asked."""

import logging

from orchestrator.clock import Clock
from orchestrator.errors import OrchestratorError
from orchestrator.pool import refill
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.worker.boots import Boots
from orchestrator.worker.drain_watch import DrainWatch
from orchestrator.worker.headroom import Headroom
from orchestrator.worker.service import Background, LoopService
from orchestrator.worker.stops import Stops

log = logging.getLogger("orchestrator.worker.pool_keeper")

RETRY_SECONDS = 0.5


class PoolKeeper(LoopService):
    """Refills the pool from one node."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        *,
        boots: Boots,
        stops: Stops,
        drain: DrainWatch,
        headroom: Headroom,
        background: Background,
    ) -> None:
        self._node = settings.node_id
        self._store, self._clock, self._background = store, clock, background
        self._boots, self._stops, self._drain, self._headroom = boots, stops, drain, headroom

    async def refill(self) -> int:
        """Bring the pool to its target; returns how many agents became warm."""
        if self._drain.draining:
            return 0
        if refused := self._headroom.shortage:
            log.warning("no agent is started: %s", refused)
        return await refill.refill(self._store, self._node, self._boots.boot, self._stops.anywhere, refused=refused)

    def refill_soon(self) -> None:
        """Bring the pool to its target without waiting for it."""
        self._background.begin(self.refill())

    async def run(self) -> None:
        """Refill at every wake-up."""
        while True:
            try:
                if await self._store.wait_wake(self._node):
                    self.refill_soon()
            except Exception as failure:
                if not isinstance(failure, OrchestratorError):
                    log.exception("waiting for wake-ups of the pool failed and will be tried again")
                await self._clock.sleep(RETRY_SECONDS)
