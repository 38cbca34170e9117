"""Beat's scheduler: redbeat's, which recovers from a beat that was down, and from a Redis that lost the schedule.

States: waits (for Redis, or for the beat that leads) → leads → waits again when Redis is away or its lock has run out.
Redbeat itself ends the process in each of these cases; a Redis that is away is no failure of this program.
"""

import logging
import time
from typing import Any

from celery.signals import beat_init
from redbeat.schedulers import LUA_EXTEND_TO_SCRIPT, RedBeatScheduler, acquire_distributed_beat_lock, get_redis
from redis.exceptions import LockError

from orchestrator.config.redis_url import Address
from orchestrator.store.keys import BEAT_TICKS
from orchestrator.task_queue.app import REFILL, waits_for_redis
from orchestrator.task_queue.broker import ADDRESS

log = logging.getLogger("orchestrator.worker.beat")

#: Seconds between two tries to reach Redis, and between two tries to lead.
WAIT_SECONDS = 1.0

# It blocks at the start until it has the lock; while Redis is away, for ever.
beat_init.disconnect(acquire_distributed_beat_lock)


class Scheduler(RedBeatScheduler):  # type: ignore[misc] # redbeat has no types
    """Redbeat writes its schedule once, at its start: emptied after that, it would hold its lock and never tick."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self._leads = self._written = False
        self._trouble = ""
        super().__init__(app, **kwargs | {"lazy": True})  # Redis may be away

    @property
    def _ticks(self) -> str:
        where: Address = self.app.conf.broker_transport_options[ADDRESS]
        return where.prefix + BEAT_TICKS

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        """Send what is due; returns the seconds until the next call."""
        try:
            if not self._lead():
                return WAIT_SECONDS
            pause = self._tick(*args, **kwargs)
        except LockError as failure:
            # Redis was away for longer than the lock holds, or has lost it.
            log.warning("this beat no longer leads: %s", failure)
            self._leads, self.lock = False, None
            return WAIT_SECONDS
        except Exception as failure:
            if (cause := waits_for_redis(failure)) is None:
                raise
            # guard: beat-waits
            self._say(cause)
            return WAIT_SECONDS
        self._say("")
        return pause

    def _tick(self, *args: Any, **kwargs: Any) -> Any:
        # guard: refill-at-start
        if not self._leads:
            # Beat may have been down for long: the first refill does not wait for its interval.
            self.app.send_task(REFILL, expires=25)
            self._leads = True
            log.info("this beat leads; a refill is requested")
        if not self._written or not get_redis(self.app).exists(self.app.redbeat_conf.schedule_key):
            # guard: schedule-again
            self.setup_schedule()
            self._written = True
        pause = super().tick(*args, **kwargs)
        get_redis(self.app).hset(self._ticks, "beat", int(time.time()))
        return pause

    def _lead(self) -> bool:
        """Take the lock, once; False while another beat has it."""
        if self.lock or not self.lock_key:
            return True
        client = get_redis(self.app)
        lock = client.lock(self.lock_key, timeout=self.lock_timeout)
        lock.lua_extend = client.register_script(LUA_EXTEND_TO_SCRIPT)  # redbeat's: extends to, not by
        if lock.acquire(blocking=False):
            self.lock = lock
        return self.lock is not None

    def _say(self, trouble: str) -> None:
        if trouble and not self._trouble:
            log.warning("beat waits for Redis: %s", trouble)
        elif self._trouble and not trouble:
            log.info("Redis is back")
        self._trouble = trouble

    def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> Any:
        """Send one task, and record the time."""
        sent = super().apply_async(entry, *args, **kwargs)
        get_redis(self.app).hset(self._ticks, entry.name, int(time.time()))
        return sent

    def close(self) -> None:
        """Release the lock; if Redis is away, it expires."""
        try:
            super().close()
        except Exception as failure:
            if waits_for_redis(failure) is None and not isinstance(failure, LockError):
                raise
            log.info("the lock is not released: %s", failure)
