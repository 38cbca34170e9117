"""Ends sessions without an agent, forgets nodes that have vanished, and corrects the lists of nodes' agents."""

import asyncio
import logging

from orchestrator.clock import Clock
from orchestrator.pool import refill
from orchestrator.store import Store

log = logging.getLogger("orchestrator.worker.clean_up")

CLEAN_UP_SECONDS = 5.0
#: A session that seems lost is ended at the second check. Between the two an agent that lives has its heartbeat, and
#: registers.
MIN_CHECK_INTERVAL_SECONDS = 4.0


class CleanUp:
    """The clean-up by one node: every few seconds, and when beat asks for it."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._turn = asyncio.Lock()
        self._checked_at = float("-inf")
        self._suspects: set[str] = set()
        self._missing: set[str] = set()

    async def run(self) -> list[str]:
        """Check once; returns the sessions that were ended. A check that follows another too closely does nothing."""
        async with self._turn:
            # guard: check-interval
            if self._clock.monotonic() - self._checked_at < MIN_CHECK_INTERVAL_SECONDS:
                return []
            ended, self._suspects = await refill.end_stale(self._store, self._suspects)
            await self._forget_vanished_nodes()
            if wrong := await self._store.recount_nodes():
                log.info("%d entries of the nodes' lists were wrong", wrong)
            self._checked_at = self._clock.monotonic()
        return ended

    async def _forget_vanished_nodes(self) -> None:
        # At the second check: after Redis was away, a living node reports a little later.
        before, self._missing = self._missing, await self._store.vanished()
        for node in sorted(before & self._missing):
            if await self._store.forget_node(node, for_good=True, if_silent=True):
                log.warning("node %s has vanished", node)
