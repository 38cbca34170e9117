"""Beat's schedule on a real Valkey."""

import time

import redis
from redbeat import RedBeatSchedulerEntry

from orchestrator.settings import Settings
from orchestrator.task_queue.app import REFILL, make_worker_app
from orchestrator.worker.beat import Scheduler


def test_a_schedule_lost_by_redis_is_written_again(raw: redis.Redis, valkey_url: str) -> None:
    app = make_worker_app(Settings(redis_url=valkey_url, node_id="n1"))
    scheduler = Scheduler(app=app)
    scheduler.lock_key = None  # there is only one beat, so no lock is needed
    try:
        scheduler.setup_schedule()
        kept = set(raw.keys("celery:beat:*"))
        assert "celery:beat::schedule" in kept
        raw.delete(*kept)
        assert scheduler.tick() <= 30
        assert set(raw.keys("celery:beat:*")) == kept
        assert raw.zcard("celery:beat::schedule") == 3
    finally:
        app.close()


def test_a_starting_beat_queues_a_refill_immediately(raw: redis.Redis, valkey_url: str) -> None:
    app = make_worker_app(Settings(redis_url=valkey_url, node_id="n1"))
    scheduler = Scheduler(app=app)
    scheduler.lock_key = None
    try:
        scheduler.setup_schedule()
        for _ in range(2):
            scheduler.tick()
        assert [REFILL in task for task in raw.lrange("celery", 0, -1)] == [True], "sent once, and nothing else is due"
    finally:
        app.close()


def test_beat_records_its_ticks_and_the_time_of_each_task(raw: redis.Redis, valkey_url: str) -> None:
    app = make_worker_app(Settings(redis_url=valkey_url, node_id="n1"))
    scheduler = Scheduler(app=app)
    scheduler.lock_key = None
    try:
        scheduler.setup_schedule()
        began = time.time()
        scheduler.tick()
        assert raw.hgetall("beat:ticks").keys() == {"beat"}, "nothing was due"
        entry = RedBeatSchedulerEntry.from_key("celery:beat:refill", app=app)
        scheduler.apply_async(entry, advance=False)
        ticks = raw.hgetall("beat:ticks")
        assert ticks.keys() == {"beat", "refill"}
        assert all(int(began) <= float(at) <= time.time() for at in ticks.values())
    finally:
        app.close()
