"""What the services of a node need of the Celery worker they run beside."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TaskQueue:
    """Each call blocks: make it in a thread."""

    stop_elsewhere: Callable[[str, str], None]  #: queues the stop of an agent that lives on another node
    send_canary: Callable[[], None]  #: queues a task to this node's own queue, which calls `Canary.seen`
    consume: Callable[[bool], None]  #: whether to take tasks from the shared queue
    send_alert: Callable[[str, str], None]  #: queues the delivery of a message to the operator's webhook
