"""A second Celery app on the same Redis database: none of its tasks is dropped, and a warning names it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from celery import Celery

from orchestrator.task_queue.app import CANARY, Publisher
from orchestrator.task_queue.foreign_tasks import Sightings
from tests.support.node import REPOSITORY
from tests.support.processes import poll, stop
from tests.support.redis_clock import redis_time

pytestmark = pytest.mark.thorough

TASKS = 12
SHOP = """
import os
from celery import Celery
app = Celery("shop", broker=os.environ["SHOP_REDIS"], backend=os.environ["SHOP_REDIS"])

@app.task(name="shop.add")
def add(a, b):
    return a + b
"""


@contextmanager
def program(folder: Path, *arguments: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}:{REPOSITORY}", "HOME": str(folder)} | environment
    with (folder / f"{arguments[0]}-{len(list(folder.iterdir()))}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=folder, stdout=log, stderr=log, env=variables
        )
    try:
        yield process
    finally:
        stop(process)


@contextmanager
def our_worker(folder: Path, url: str, **settings: str) -> Iterator[None]:
    command = (
        "orchestrator.task_queue.command --quiet -A orchestrator.worker.tasks worker --pool=threads --concurrency=4"
    )
    settings |= {"REDIS_URL": url, "NODE_ID": "n1", "RUN_DIR": str(folder)}
    with program(folder, *command.split(), "--hostname=node@n1", **settings):
        yield


@contextmanager
def shop_worker(folder: Path, url: str) -> Iterator[None]:
    with program(folder, *"celery --quiet -A shop worker --pool=solo --hostname=celery@shop".split(), SHOP_REDIS=url):
        yield


@pytest.fixture
def shop(tmp_path: Path, raw: redis.Redis, valkey_url: str) -> Iterator[Celery]:
    (tmp_path / "shop.py").write_text(SHOP)
    app = Celery("shop", broker=valkey_url, backend=valkey_url, set_as_current=False)
    yield app
    app.close()


def log_of_ours(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("orchestrator.task_queue.command-*.log"))


def test_every_task_of_another_app_runs_in_that_app(
    tmp_path: Path, shop: Celery, raw: redis.Redis, valkey_url: str
) -> None:
    with shop_worker(tmp_path, valkey_url):
        poll(lambda: raw.smembers("_kombu.binding.celery.pidbox"), "the other app's worker is running", 60)
        with our_worker(tmp_path, valkey_url):
            poll(lambda: "ready." in log_of_ours(tmp_path), "our worker is ready", 60)
            sent = [shop.send_task("shop.add", args=[n, n], queue="celery") for n in range(TASKS)]
            poll(lambda: all(each.state == "SUCCESS" for each in sent), "all of the other app's tasks are done", 90)
            assert [each.result for each in sent] == [2 * n for n in range(TASKS)]
            told = poll(lambda: (log := log_of_ours(tmp_path)) and "celery@shop" in log and log, "a warning", 90)
    assert "discarded" not in told
    assert "another program uses our queues" in told
    assert told.count("task shop.add") == 1, "one warning, not one for each task"


def test_foreign_tasks_cause_no_busy_loop_and_do_not_delay_ours(
    tmp_path: Path, shop: Celery, raw: redis.Redis, valkey_url: str
) -> None:
    for n in range(100):
        shop.send_task("shop.add", args=[n, n], queue="celery")
    for kind in ("application/x-python-serialize", "application/json", "text/plain", "no/such"):
        raw.lpush("celery", _foreign(kind))
    with our_worker(tmp_path, valkey_url):
        publisher = Publisher(valkey_url)
        publisher.send("orchestrator.cleanup_stale", task_id="mine")
        publisher.send(CANARY, queue="node.n1")
        poll(lambda: raw.get("celery:result:celery-task-meta-mine"), "our task is done behind them", 60)
        publisher.close()
        began, before = redis_time(raw), raw.info("commandstats")["cmdstat_brpop"]["calls"]
        poll(lambda: redis_time(raw) - began > 3, "three seconds have passed by Redis's clock")
        taken, seconds = raw.info("commandstats")["cmdstat_brpop"]["calls"] - before, redis_time(raw) - began
        assert taken < 104 * 5 / 3 * seconds, f"{taken} reads of the queue in {seconds:.1f} s"
    assert raw.llen("celery") == 104, "a stopped worker keeps no message"
    assert not raw.exists("celery:unacked")


def _foreign(content_type: str) -> str:
    """A message in kombu's format that is not a task."""
    delivery = {"exchange": "celery", "routing_key": "celery"}
    properties = {"delivery_info": delivery, "delivery_tag": content_type, "body_encoding": "base64"}
    message = {"content-encoding": "binary", "content-type": content_type, "headers": {}, "properties": properties}
    return json.dumps({"body": "Zm9v"} | message)


def test_our_worker_does_not_requeue_unacknowledged_tasks_of_another_app(
    tmp_path: Path, shop: Celery, raw: redis.Redis, valkey_url: str
) -> None:
    """Its visibility timeout is an hour, ours three minutes: if ours applied, its long tasks would run twice."""
    old = time.time() - 1000
    held = json.dumps([json.loads(_foreign("application/json")), "celery", "celery"])
    raw.zadd("unacked_index", {"tag": old})
    raw.hset("unacked", "tag", held)
    with our_worker(tmp_path, valkey_url):
        publisher = Publisher(valkey_url)
        publisher.send("orchestrator.cleanup_stale", task_id="mine")
        poll(lambda: raw.get("celery:result:celery-task-meta-mine"), "our worker has done a task", 60)
        publisher.close()
        raw.hset("celery:unacked", "tag", held)
        raw.zadd("celery:unacked:index", {"tag": old})
        poll(lambda: not raw.hexists("celery:unacked", "tag"), "our own message of the same age is redelivered")
    assert raw.exists("unacked", "unacked_index") == 2


@pytest.mark.parametrize(
    "variables",
    [
        {"CELERY_BROKER_URL": "amqp://guest@127.0.0.1:1//", "CELERY_RESULT_BACKEND": "redis://127.0.0.1:1/0"},
        {"CELERY_BROKER_READ_URL": "redis://127.0.0.1:1", "CELERY_BROKER_WRITE_URL": "redis://127.0.0.1:1"},
        {"CELERY_LOADER": "no.such:Loader", "CELERY_CONFIG_MODULE": "no_such_module", "CELERY_APP": "no.such"},
        {"BROKER_URL": "amqp://x", "LOADER": "no.such", "CONFIG_MODULE": "no_such", "RESULT_BACKEND": "redis://h:1"},
        {"CELERY_WORKER_QUEUES": "other", "CELERY_WORKER_POOL": "prefork", "CELERY_TASK_ALWAYS_EAGER": "1"},
    ],
    ids=["broker", "read-write", "loader", "bare", "options"],
)
def test_celerys_environment_variables_change_nothing(
    tmp_path: Path, raw: redis.Redis, valkey_url: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with our_worker(tmp_path, valkey_url, **variables):
        publisher = Publisher(valkey_url)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        publisher.send("orchestrator.cleanup_stale", task_id="mine")
        monkeypatch.undo()
        poll(lambda: raw.get("celery:result:celery-task-meta-mine"), "the worker has stored a result", 60)
        publisher.close()


def test_old_sightings_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Sightings()
    seen.note("task shop.add")
    assert seen.news() == "task shop.add"
    later = time.monotonic() + 301
    monkeypatch.setattr("orchestrator.task_queue.foreign_tasks.time.monotonic", lambda: later)
    assert seen.news() == ""
