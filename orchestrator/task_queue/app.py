"""The Celery application: what is configured for Celery workers and beat, and the publisher that the api uses."""

import contextlib
from collections.abc import Iterator
from typing import Any

from celery import Celery
from celery.schedules import schedule
from kombu.entity import Queue
from kombu.exceptions import KombuError, LimitExceeded, OperationalError

from orchestrator.config import redis_url
from orchestrator.config.redis_url import Address
from orchestrator.errors import StoreUnavailable
from orchestrator.settings import Settings
from orchestrator.store.connection import connect_sync
from orchestrator.store.keys import CELERY_QUEUE, node_queue
from orchestrator.store.refusals import RETRY_SECONDS, is_wait, redis_message
from orchestrator.task_queue import broker

broker.forget_celery_variables()

#: A task that is not acknowledged is delivered again after this long: three times the longest task.
VISIBILITY_SECONDS = 180

REFILL = "orchestrator.refill"
SPAWN_AGENT = "orchestrator.spawn_agent"
STOP_AGENT = "orchestrator.stop_agent"
HEALTH_CHECK = "orchestrator.health_check"
CHECK_NODE = "orchestrator.check_node"
CLEANUP_STALE = "orchestrator.cleanup_stale"
RELOAD = "orchestrator.reload"
CANARY = "orchestrator.canary"
SEND_ALERT = "orchestrator.send_alert"

#: A Celery worker is wedged when Redis answers and nothing that was queued came through for this many seconds.
WEDGED_SECONDS = 30.0


#: What beat sends: (task, seconds between two, seconds after which one that no Celery worker took is void, so that
#: none pile up).
PERIODIC = {
    "refill": (REFILL, 30, 25),
    "health-check": (HEALTH_CHECK, 60, 50),
    "cleanup-stale": (CLEANUP_STALE, 300, 250),
}


def _base(where: Address, name: str, transport_options: dict[str, Any]) -> Celery:
    # The loader is named because a variable would name another; the URL, because Celery insists on one.
    app = Celery(name, broker="redis://", loader="orchestrator.task_queue.broker:Loader", set_as_current=False)
    app.backend_cls = "disabled"
    app.conf.update(
        broker_transport="orchestrator.task_queue.broker:Transport",
        broker_transport_options=transport_options
        | {
            broker.ADDRESS: where,
            "global_keyprefix": where.prefix,
            # Of our own: with those that every Celery has by default, its neighbours' tasks would be given back by our
            # visibility time-out while they run.
            # guard: unacked
            "unacked_key": "celery:unacked",
            # guard: unacked-index
            "unacked_index_key": "celery:unacked:index",
            "unacked_mutex_key": "celery:unacked:mutex",
        },
        task_serializer="json",
        accept_content=["json"],
        timezone="UTC",
        task_default_queue=CELERY_QUEUE,
        task_create_missing_queues=True,
    )
    return app


def make_worker_app(settings: Settings, *, current: bool = True) -> Celery:
    """Return the application that Celery workers and beat run. `current`: as this process's."""
    where = settings.redis
    # kombu has no socket time-out of its own: a black hole would hang the Celery worker for ever.
    app = _base(where, "orchestrator", {
        "visibility_timeout": VISIBILITY_SECONDS,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "health_check_interval": 10,
        "max_retries": 3,
        "interval_start": 0,
        "interval_step": 0.5,
        "interval_max": 1,
    })  # fmt: skip
    if current:
        app.set_current()
    app.backend_cls = "orchestrator.task_queue.broker:Results"
    app.conf.update(_worker(settings) | _results(where) | _beat(where))
    # What redbeat would make of a URL is another client than all others.
    app.redbeat_redis = connect_sync(where, name="beat")
    return app


def _worker(settings: Settings) -> dict[str, Any]:
    return {
        "imports": ["orchestrator.worker.tasks"],
        "task_queues": [Queue(name) for name in (CELERY_QUEUE, node_queue(settings.node_id))],  # type: ignore[no-untyped-call]
        "task_acks_late": False,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        # guard: foreign-task
        "worker_consumer": "orchestrator.task_queue.foreign_tasks:Consumer",
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # For Flower. Published, not kept: without a listener, Redis drops them.
        "worker_send_task_events": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # An error reply of Redis is no reason to end either.
        "broker_channel_error_retry": True,
        "visibility_timeout": VISIBILITY_SECONDS,
    }


def _results(where: Address) -> dict[str, Any]:
    return {
        "result_backend_transport_options": {
            "global_keyprefix": f"{where.prefix}celery:result:",
            "visibility_timeout": VISIBILITY_SECONDS,
        },
        "result_expires": 600,
        "redis_socket_timeout": 5,
        "redis_socket_connect_timeout": 2,
        "redis_backend_health_check_interval": 15,
    }


def _beat(where: Address) -> dict[str, Any]:
    return {
        "beat_scheduler": "orchestrator.worker.beat.Scheduler",
        "beat_max_loop_interval": 5,
        # It connects by neither: it has been given its client.
        "redbeat_redis_url": str(where),
        "redbeat_redis_options": {},
        "redbeat_key_prefix": f"{where.prefix}celery:beat:",
        # A beat that was killed is replaced when its lock runs out.
        # guard: beat-lock
        "redbeat_lock_timeout": 15,
        "beat_schedule": {
            name: {"task": task, "schedule": schedule(every), "options": {"expires": expires}}
            for name, (task, every, expires) in PERIODIC.items()
        },
    }


def waits_for_redis(failure: BaseException) -> str | None:
    """Return why Redis is away or does not serve now; None if the error has another cause.

    Celery and kombu raise the client's own errors, the system's, or theirs around them.
    """
    cause = failure.__cause__ if isinstance(failure, KombuError) and failure.__cause__ else failure
    if is_wait(cause):
        return redis_message(cause)
    if isinstance(cause, OperationalError | LimitExceeded | OSError):
        return str(cause) or type(cause).__name__
    return None


@contextlib.contextmanager
def publishing() -> Iterator[None]:
    """Raise `StoreUnavailable` where Celery raises whatever it met when it queued a task."""
    try:
        yield
    except Exception as failure:
        if (cause := waits_for_redis(failure)) is None:
            raise
        raise StoreUnavailable(f"the task queue takes no task: {cause}", retry_after=RETRY_SECONDS) from failure


class Publisher:
    """Queues tasks by name, from processes that run none. A publish fails within about 3 s, it never hangs."""

    def __init__(self, redis: Address | str) -> None:
        where = redis_url.parse(redis) if isinstance(redis, str) else redis
        self._app = _base(where, "publisher", {
            "socket_timeout": 1.5,
            "socket_connect_timeout": 1,
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.1,
            "interval_max": 0.2,
            "connect_retries_timeout": 2,
        })  # fmt: skip
        self._app.conf.update(
            task_publish_retry=False,
            broker_connection_timeout=1,
            broker_pool_limit=4,
            broker_pool_acquire_timeout=1,
        )

    def send(self, task: str, *args: Any, queue: str | None = None, **options: Any) -> None:
        """Queue one task. Blocks for about a millisecond: call it in a thread.

        Raises `StoreUnavailable` when the broker does not answer, or does not take it.
        """
        with publishing():
            self._app.send_task(task, args=args, queue=queue or CELERY_QUEUE, **options)

    def check(self) -> None:
        """Raise whatever kombu raises when Redis does not let it in."""
        with self._app.connection_for_write() as connection:
            connection.default_channel.client.ping()

    def close(self) -> None:
        """Close the connections."""
        self._app.close()
