"""Acts on missed deadlines: the store decides, and this does the actions outside Redis."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from orchestrator import faults
from orchestrator.store import Action, Store
from orchestrator.worker import alerts
from orchestrator.worker.reconciler import Reconciler
from orchestrator.worker.service import Background
from orchestrator.worker.stops import Stops
from orchestrator.worker.task_queue import TaskQueue

log = logging.getLogger("orchestrator.worker.deadlines")

DEADLINE_SECONDS = 0.25


class Deadlines:
    """The missed deadlines that one node acts on. Without a `reconciler` there is no LiveKit and there are no rooms."""

    def __init__(
        self,
        store: Store,
        *,
        queue: TaskQueue,
        stops: Stops,
        refill: Callable[[], Awaitable[object]],
        reconciler: Reconciler | None,
        background: Background,
    ) -> None:
        self._store, self._queue, self._stops, self._refill = store, queue, stops, refill
        self._reconciler, self._background = reconciler, background

    async def enforce(self) -> None:
        """Have the store act on the deadlines that are over, and start the actions that it returns."""
        actions = await self._store.process_deadlines()
        if actions:
            faults.hit("watch.after_due")
        for action in actions:
            self._background.begin(self._act(action))

    async def _act(self, action: Action) -> None:
        match action.what:
            case "stop":
                log.info("deadline missed: %s is stopped", action.id)
                await self._stops.on(action.id, action.node)
            case "close" if self._reconciler:
                await self._reconciler.close(action.id)
            case "close":
                await self._store.room_closed(action.id)
            case "refill":
                await self._refill()
            case "look" if self._reconciler:
                await self._reconciler.reconcile(action.id)
            case "room" if self._reconciler:
                await self._reconciler.make(action.id)
            case "reconcile" if self._reconciler:
                await self._reconciler.all()
            case "alert":
                await self._send_alert(action.id)

    async def _send_alert(self, alert_id: str) -> None:
        if alert := await self._store.alert(alert_id):
            await asyncio.to_thread(self._queue.send_alert, alert_id, alerts.body(alert))
        await self._store.alert_queued(alert_id)
