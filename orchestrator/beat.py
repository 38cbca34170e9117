"""Beat's scheduler: redbeat's, whose schedule comes back when Redis has lost it."""

from typing import Any

from redbeat.schedulers import RedBeatScheduler, get_redis


class Scheduler(RedBeatScheduler):  # type: ignore[misc] # redbeat has no types
    """Redbeat writes its schedule once, at its start: emptied after that, it would hold its lock and never tick."""

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        """Send what is due; returns the seconds until the next look."""
        if not get_redis(self.app).exists(self.app.redbeat_conf.schedule_key):
            self.setup_schedule()
        return super().tick(*args, **kwargs)
