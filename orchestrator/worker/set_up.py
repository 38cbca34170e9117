"""Sets the store up: the schema, the policy that the scripts decide by, the pool's target.

Failure cases: Redis back empty → the living agents register first, then starts are answered again; a Redis that
another release's schema is in → this program ends for good: it must not touch what it does not understand.
"""

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable

from orchestrator.clock import Clock
from orchestrator.errors import CANNOT_RUN, HostUnavailable, SchemaMismatch, StoreUnavailable
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.worker.host_link import HostLink

log = logging.getLogger("orchestrator.worker.set_up")

#: Where Redis has lost everything, the living have this long to register before starts are answered again.
REGISTER_SECONDS = 12.0
RETRY_SECONDS = 0.5
_POLL_SECONDS = 0.2
#: From an agent's heartbeat until it is registered.
_REGISTERED_SECONDS = 0.5


class SetUp:
    """The set-up by one node."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        *,
        link: HostLink,
        before_starts: Callable[[], Awaitable[object]],
        refill: Callable[[], None],
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        """`before_starts`: what must be known before the first start is answered."""
        self._settings, self._store, self._clock, self._link = settings, store, clock, link
        self._before_starts, self._refill, self._end_process = before_starts, refill, end_process
        self.done = False  #: whether this node has set the store up since it started

    async def begin(self) -> None:
        """Agree on the schema and put this node in service, as soon as Redis answers."""
        await self._until_store_answers(self._check_schema)
        await self._until_store_answers(lambda: self._store.undrain_node(self._settings.node_id))

    async def _check_schema(self) -> None:
        try:
            await self._store.check_schema()
        except SchemaMismatch as failure:
            log.critical("this node cannot run: %s", failure.detail)
            self._end_process(CANNOT_RUN)

    async def _until_store_answers(self, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await work()
            except StoreUnavailable:
                await self._clock.sleep(RETRY_SECONDS)
            else:
                return

    async def run(self) -> None:
        """Set the store up: at the node's start, and when Redis has lost it."""
        await self._store.write_policy(self._settings.policy)
        if not await self._store.configured():
            # No start is answered until the living have registered, so the cap holds.
            began = self._clock.monotonic()
            with contextlib.suppress(HostUnavailable):
                # guard: wait-for-registrations
                while self._clock.monotonic() - began < REGISTER_SECONDS and not await self._all_registered():
                    await self._clock.sleep(_POLL_SECONDS)
            if self.done:
                # Redis has lost what other nodes' agents had said too. Each registers at its next heartbeat.
                heartbeat = self._settings.heartbeat_seconds + _REGISTERED_SECONDS
                # guard: wait-for-heartbeats
                await self._clock.sleep(max(0.0, began + heartbeat - self._clock.monotonic()))
        await self._before_starts()
        await self._store.configure(self._settings.policy, self._settings.pool_target)
        self._refill()
        self.done = True

    async def _all_registered(self) -> bool:
        living, _ = await self._link.hello(await self._link.host())
        return {process.agent_id for process in living} <= {agent.id for agent in await self._store.agents()}
