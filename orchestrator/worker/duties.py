"""Periodic duties of every node: LiveKit's probe, the alerts, the rewrite of Redis's file."""

import logging
import os

from orchestrator.errors import OrchestratorError, StoreUnavailable
from orchestrator.livekit.rooms import Rooms
from orchestrator.settings import Settings
from orchestrator.store import Store

log = logging.getLogger("orchestrator.worker.duties")

#: Seconds between two rounds of each.
PROBE_SECONDS = 3.0
ALERT_SECONDS = 1.0
REWRITE_SECONDS = 60.0
#: Seconds between rewrites of the embedded Valkey's append-only file, unless REDIS_REWRITE_SECONDS is set: deleted data
#: leaves the disk well within an hour.
EMBEDDED_REWRITE_SECONDS = 1200.0


class LiveKitProbe:
    """Reports to the store whether LiveKit answers: no session is started while it does not."""

    def __init__(self, store: Store, rooms: Rooms | None) -> None:
        self._store, self._rooms = store, rooms

    async def probe(self) -> None:
        """Ask LiveKit, if there is one."""
        if self._rooms:
            trouble = await self._rooms.reachable()
            if trouble:
                log.warning("%s", trouble)
            await self._store.livekit_down(trouble)


class AlertWatch:
    """Sends the operator's webhook a message when a problem begins, and when it is over."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wrong: set[str] = set()

    async def check(self) -> None:
        """Check every alert; log those that have begun."""
        wrong = set(await self._store.check_alerts())
        for name in wrong - self._wrong:
            log.warning("alert: %s", name)
        self._wrong = wrong


class FileRewrite:
    """Has Redis rewrite its append-only file, so that deleted data leaves the disk."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store

    @property
    def every_seconds(self) -> float:
        """Seconds between two rewrites; 0: the file is not rewritten from here."""
        if (seconds := self._settings.redis_rewrite_seconds) is not None:
            return seconds
        return EMBEDDED_REWRITE_SECONDS if os.environ.get("EMBEDDED_VALKEY") == "true" else 0.0

    async def rewrite(self) -> None:
        """Have the file rewritten when that is due."""
        try:
            if await self._store.rewrite_log(self.every_seconds):
                log.info("the append-only file is rewritten without deleted data")
        except StoreUnavailable:
            raise
        except OrchestratorError as failure:
            log.warning("the append-only file is not rewritten, so deleted data stays in it: %s", failure.detail)
