"""Beat's scheduler: redbeat's, which makes up for a beat that was gone, and for a Redis that lost the schedule."""

import logging
import time
from typing import Any

from redbeat.schedulers import RedBeatScheduler, get_redis

from orchestrator.address import Address
from orchestrator.broker import ADDRESS
from orchestrator.celery_app import REFILL
from orchestrator.store.keys import BEAT_TICKS

log = logging.getLogger("orchestrator.beat")


class Scheduler(RedBeatScheduler):  # type: ignore[misc] # redbeat has no types
    """Redbeat writes its schedule once, at its start: emptied after that, it would hold its lock and never tick."""

    _leads = False

    @property
    def _ticks(self) -> str:
        where: Address = self.app.conf.broker_transport_options[ADDRESS]
        return where.prefix + BEAT_TICKS

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        """Send what is due; returns the seconds until the next look."""
        if not self._leads:
            # How long there was no beat nobody knows: the first refill does not wait for its turn.
            self.app.send_task(REFILL, expires=25)
            self._leads = True
            log.info("this beat leads; a refill is asked for")
        if not get_redis(self.app).exists(self.app.redbeat_conf.schedule_key):
            self.setup_schedule()
        pause = super().tick(*args, **kwargs)
        get_redis(self.app).hset(self._ticks, "beat", int(time.time()))
        return pause

    def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> Any:
        """Send one task, and note when."""
        sent = super().apply_async(entry, *args, **kwargs)
        get_redis(self.app).hset(self._ticks, entry.name, int(time.time()))
        return sent
