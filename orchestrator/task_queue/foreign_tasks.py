"""Other programs that use our queues: their tasks are given back, and the operator is warned.

Without REDIS_PREFIX our queue is called `celery`, as every Celery app's is. A Celery worker drops a task that it does
not know; ours puts it back at the queue's end, later each time, so that the neighbour's worker finds it and neither
turns hot. Nothing keeps a neighbour's worker from dropping tasks of ours: the loops that queue them do so again.
"""

import logging
import threading
import time
from collections import OrderedDict
from typing import Any

from celery import Celery

from orchestrator.task_queue import consuming

log = logging.getLogger("orchestrator.task_queue.foreign_tasks")

#: Prefix of our Celery workers' names.
OUR_WORKERS = "node@"
#: Seconds for which a task that is not ours is held, the first time and at most.
FIRST_SECONDS, MOST_SECONDS = 0.3, 5.0
#: Maximum number of held tasks, and the pause before each further one is returned at once.
HELD, PACE_SECONDS = 500, 0.02
#: Number of tasks whose delay is remembered.
REMEMBERED = 5000
#: Seconds between two searches for other apps' Celery workers, and for which a sighting counts.
PING_SECONDS, NEWS_SECONDS = 15, 300


class Sightings:
    """Other programs that this process has seen in the queues. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, float] = {}

    def note(self, what: str) -> None:
        """Note a sighting; the first of a kind is logged."""
        with self._lock:
            fresh = what not in self._seen
            self._seen[what] = time.monotonic()
            while len(self._seen) > 20:
                del self._seen[min(self._seen, key=lambda each: self._seen[each])]
        if fresh:
            log.warning("another program uses our queues: %s. Set REDIS_PREFIX, or use a database of its own", what)

    def news(self) -> str:
        """Return the recent sightings as text; '' if there are none."""
        with self._lock:
            late = time.monotonic() - NEWS_SECONDS
            self._seen = {what: at for what, at in self._seen.items() if at > late}
            return ", ".join(sorted(self._seen)[:3])


sightings = Sightings()


class Consumer(consuming.Consumer):
    """Celery's consumer, which drops no task of another program."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waits: OrderedDict[str, float] = OrderedDict()
        self._held = 0

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Return a task of another app, or of a newer release, to the queue."""
        self._give_back(message, f"task {self._name(message)}")

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Return a message that is no task to the queue."""
        self._give_back(message, "a message that is no task")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Return a message that we cannot decode to the queue; drop it, as Celery does, if its task is ours."""
        if self._name(message) in self.strategies:
            super().on_decode_error(message, exc)
        else:
            self._give_back(message, f"a message of type {message.content_type}")

    def _name(self, message: Any) -> str:
        try:
            return str(message.headers["task"])[:100]
        except (TypeError, KeyError):
            pass
        try:  # an older protocol has it inside
            return str(message.payload["task"])[:100]
        except Exception:  # another program's message: whatever error it causes, it is not our task
            return "?"

    def _give_back(self, message: Any, what: str) -> None:
        sightings.note(what)
        if self._held >= HELD:
            time.sleep(PACE_SECONDS)
            self._requeue(message)
            return
        key = str(message.properties.get("correlation_id") or message.delivery_tag)
        wait = self._waits.pop(key, FIRST_SECONDS)
        self._waits[key] = min(MOST_SECONDS, wait * 1.5)
        if len(self._waits) > REMEMBERED:
            self._waits.popitem(last=False)
        # As Celery holds a task with a countdown, so that it does not reduce our own prefetch.
        self._held += 1
        self.qos.increment_eventually()
        self.timer.call_after(wait, self._release, (message,))

    def _release(self, message: Any) -> None:
        self._held -= 1
        self.qos.decrement_eventually()
        self._requeue(message)

    def _requeue(self, message: Any) -> None:
        try:
            message.requeue()
        except self.connection_errors:
            # It stays unacknowledged; the visibility timeout returns it to the queue.
            log.warning("a task of another program returns to the queue when Redis answers again")


def watch_for_workers(app: Celery, stop: threading.Event) -> None:
    """Note the Celery workers of other apps that hear our broadcasts, until it must stop."""
    while True:
        try:
            for answer in app.control.ping(timeout=1.0) or []:
                for name in answer:
                    if not name.startswith(OUR_WORKERS):
                        sightings.note(f"Celery worker {name}")
        except Exception as failure:  # of Redis or kombu: the next search may succeed
            log.debug("the search for other workers failed: %r", failure)
        if stop.wait(PING_SECONDS):
            return
