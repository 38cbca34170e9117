"""The Celery tasks: thin, each enters the node's event loop once. `celery -A orchestrator.worker.tasks worker`."""

import logging
import random
import threading
from typing import Any

from celery import Task, signals
from celery.exceptions import Ignore

from orchestrator import logs
from orchestrator.errors import BootElsewhere, NotDelivered, OrchestratorError
from orchestrator.logs import configure_logging
from orchestrator.models import new_id
from orchestrator.settings import Settings
from orchestrator.store.keys import CELERY_QUEUE, node_queue
from orchestrator.task_queue import app as celery_app
from orchestrator.task_queue.app import make_worker_app, publishing
from orchestrator.task_queue.consuming import wait_for_redis
from orchestrator.task_queue.foreign_tasks import watch_for_workers
from orchestrator.worker import alerts
from orchestrator.worker.boots import given_up_after
from orchestrator.worker.node_thread import NodeThread
from orchestrator.worker.task_queue import TaskQueue

log = logging.getLogger("orchestrator.worker.tasks")

settings = Settings.load()
app = make_worker_app(settings)
stopping = threading.Event()


def _stop_elsewhere(agent_id: str, where: str) -> None:
    with publishing():
        app.send_task(celery_app.STOP_AGENT, args=[agent_id], queue=node_queue(where), expires=120)


def _send_canary() -> None:
    with publishing():
        app.send_task(celery_app.CANARY, queue=node_queue(settings.node_id), expires=30, retry=False)


def _consume(shared: bool) -> None:
    change = app.control.add_consumer if shared else app.control.cancel_consumer
    with publishing():
        change(CELERY_QUEUE, destination=[f"node@{settings.node_id}"])


def _send_alert(alert_id: str, content: str) -> None:
    with publishing():
        app.send_task(celery_app.SEND_ALERT, args=[alert_id, content], task_id=alert_id)


node = NodeThread(settings, TaskQueue(_stop_elsewhere, _send_canary, _consume, _send_alert))

#: A boot waits this long at most; every task that boots agents is bounded by it.
BOOT_SECONDS = settings.boot_timeout_seconds + 30
SPAWN_RETRIES = 3
#: Pauses of 1, 2, 4 … 60 s, each cut by chance.
ALERT_RETRIES = 20


def _no_canary(record: logging.LogRecord) -> bool:
    # It flies every few seconds; what is worth a line is that it does not come through.
    return celery_app.CANARY not in record.getMessage()


# The first: before what Celery itself warns of at its start.
@signals.celeryd_init.connect
@signals.setup_logging.connect
def _configure_logging(**_: Any) -> None:
    configure_logging(settings.log_format)
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).addFilter(_no_canary)


@signals.celeryd_init.connect
def _wait_for_redis(**_: Any) -> None:
    wait_for_redis(settings)


@signals.task_prerun.connect
def _task_begins(task_id: str, task: Task, **_: Any) -> None:
    request_id = task.request.get("request_id")
    logs.begin(task=task.name, task_id=task_id, **({"request_id": request_id} if request_id else {}))


@signals.task_postrun.connect
def _task_is_over(**_: Any) -> None:
    logs.end()


@signals.worker_ready.connect
def _start(**_: Any) -> None:
    node.start()
    threading.Thread(target=watch_for_workers, args=(app, stopping), name="strangers", daemon=True).start()


@signals.worker_shutdown.connect
def _stop(**_: Any) -> None:
    stopping.set()
    node.stop()


@app.task(name=celery_app.SPAWN_AGENT, bind=True, acks_late=True, max_retries=SPAWN_RETRIES)
def spawn_agent(self: Task, session_id: str) -> bool:
    """Boot an agent for a waiting session, three more times with growing pauses when it fails, then give up."""
    logs.note(session_id=session_id)
    attempt = self.request.retries or 0
    agent_id = session_id if attempt == 0 else new_id("prewarm")
    # One that came by the node's own queue was sent here by another node.
    anywhere = attempt == 0 and self.request.delivery_info["routing_key"] == CELERY_QUEUE
    try:
        return node.run(
            lambda node: node.boots.for_session(session_id, agent_id, announce=attempt > 0, anywhere=anywhere),
            BOOT_SECONDS,
        )
    except BootElsewhere as better:
        headers = {"request_id": self.request.get("request_id")}
        queue = node_queue(better.node)
        app.send_task(celery_app.SPAWN_AGENT, args=[session_id], task_id=session_id, queue=queue, headers=headers)
        raise Ignore from None
    except OrchestratorError as failure:
        if attempt >= SPAWN_RETRIES:
            reason = given_up_after(attempt + 1, failure)
            node.run(lambda node: node.boots.fail_session(session_id, reason), 10)
            return False
        log.warning("spawn failed, is tried again", extra={"session_id": session_id, "cause": failure.detail})
        raise self.retry(countdown=2**attempt * random.uniform(0.5, 1.0), exc=failure) from failure


@app.task(name=celery_app.REFILL)
def refill() -> int:
    """Bring the pool to its target: after every assignment and resize, every 30 s as a safety net."""
    return node.run(lambda node: node.pool.refill(), BOOT_SECONDS)


@app.task(name=celery_app.CANARY, ignore_result=True)
def canary() -> None:
    """Prove that this Celery worker consumes."""
    node.note_canary()


@app.task(
    name=celery_app.SEND_ALERT, acks_late=True, ignore_result=True, autoretry_for=(NotDelivered,), retry_backoff=1,
    retry_backoff_max=60, retry_jitter=True, max_retries=ALERT_RETRIES, rate_limit="1/s",
)  # fmt: skip
def send_alert(alert_id: str, content: str) -> None:
    """Deliver one message to the operator's webhook; about ten minutes pass before it is given up."""
    if settings.alert_webhook_url is None or settings.alert_webhook_secret is None:
        log.warning("an alert is not sent: ALERT_WEBHOOK_URL is not set on this node", extra={"alert_id": alert_id})
        return
    secret = settings.alert_webhook_secret.get_secret_value()
    alerts.deliver(settings.alert_webhook_url.get_secret_value(), secret, alert_id, content)
    log.info("alert sent", extra={"alert_id": alert_id})


@app.task(name=celery_app.RELOAD)
def reload(reload_id: str) -> None:
    """Load the agents' code again on this node."""
    node.run(lambda node: node.reload.reload(reload_id), 120)


@app.task(name=celery_app.STOP_AGENT)
def stop_agent(agent_id: str) -> bool:
    """Stop an agent process of this node."""
    return node.run(lambda node: node.stops.here(agent_id), 20)


@app.task(name=celery_app.HEALTH_CHECK)
def health_check() -> None:
    """Have every node examine its own processes: pids mean something only there."""
    for name in node.run(lambda node: node.nodes(), 10):
        app.send_task(celery_app.CHECK_NODE, queue=node_queue(name), expires=50)


@app.task(name=celery_app.CHECK_NODE)
def check_node() -> int:
    """Examine the agent processes of this node."""
    return node.run(lambda node: node.checks.check(), BOOT_SECONDS)


@app.task(name=celery_app.CLEANUP_STALE)
def cleanup_stale() -> int:
    """End sessions that have lost their agent, and forget nodes that have vanished."""
    return len(node.run(lambda node: node.clean_up.run(), 60))
