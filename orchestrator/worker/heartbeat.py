"""Reports once a second that this node lives, with its state, and reads whether it drains and whether another node has
the same id.
"""

import logging
import os
import secrets
from collections.abc import Callable

from orchestrator import __version__
from orchestrator.clock import Clock
from orchestrator.errors import StoreUnavailable
from orchestrator.machine.process import machine_boot_id
from orchestrator.operations import restarts
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.store.constants import NODE_BEAT_SECONDS, NODE_TTL_SECONDS
from orchestrator.task_queue.foreign_tasks import sightings
from orchestrator.worker.canary import Canary
from orchestrator.worker.drain_watch import DrainWatch
from orchestrator.worker.headroom import Headroom
from orchestrator.worker.host_link import HostLink
from orchestrator.worker.service import LoopService
from orchestrator.worker.set_up import SetUp

log = logging.getLogger("orchestrator.worker.heartbeat")

#: Consecutive beats of another incarnation after which two nodes share one id.
TWIN_BEATS = 2


class Heartbeat(LoopService):
    """The heartbeat of one node. The store is set up before the first, and whenever Redis has lost everything."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        *,
        link: HostLink,
        headroom: Headroom,
        canary: Canary,
        set_up: SetUp,
        drain: DrainWatch,
        new_life: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        self._settings, self._store, self._clock = settings, store, clock
        self._link, self._headroom, self._canary = link, headroom, canary
        self._set_up, self._drain = set_up, drain
        self._life = new_life()
        self._twins = 0

    async def run(self) -> None:
        """Beat once a second."""
        await self._set_up.begin()
        while True:
            try:
                if not self._set_up.done or not await self.beat():
                    await self._set_up.run()
                    await self.beat()
            except StoreUnavailable:
                pass  # the api reports it
            # guard: loop-survives
            except Exception:
                log.exception("the node's heartbeat failed and will be tried again")
            await self._clock.sleep(NODE_BEAT_SECONDS)

    async def beat(self) -> bool:
        """Beat once; returns whether the store is set up."""
        settings = self._settings
        answer = await self._store.beat_node(settings.node_id, self._fields(), NODE_TTL_SECONDS)
        self._drain.update(answer.draining)
        # Our previous incarnation shows up once; another node with our id shows up on every beat.
        self._twins = self._twins + 1 if answer.previous_life not in {None, self._life} else 0
        if self._twins == TWIN_BEATS:
            log.critical("another node has the id %s too: give each node its own NODE_ID", settings.node_id)
        return answer.configured

    def _fields(self) -> dict[str, str | int]:
        settings = self._settings
        fields: dict[str, str | int] = {
            "pid": os.getpid(),
            "bootId": machine_boot_id(),
            "host": int(self._link.connected),
            "hostWarning": self._link.warning,
            "lastBeat": int(self._clock.time()),
            "canaryAge": int(self._canary.age),
            "version": __version__,
            "life": self._life,
            "twin": int(self._twins >= TWIN_BEATS),
            "sessions": settings.node_sessions,
            "restarted": "; ".join(map(str, restarts.troubles(settings.run_dir))),
            "serves": settings.serves,
            "strangers": sightings.news(),
        }
        if (spare := self._headroom.spare_bytes()) is not None:
            fields["spareBytes"] = spare
        return fields
