"""T7: random processes are killed while users start and stop sessions. Afterwards records and machine agree."""

import contextlib
import logging
import os
import random
import signal
import time
from collections import Counter

import pytest
import redis

from tests.support.agreement import agrees, records, unsettled
from tests.support.node import Node
from tests.support.processes import poll
from tests.support.traffic import Traffic

log = logging.getLogger(__name__)

SECONDS = float(os.environ.get("CHAOS_SECONDS", "40"))
SEED = int(os.environ.get("CHAOS_SEED", random.randrange(1_000_000)))
SETTINGS = {"POOL_TARGET": 4, "USER_JOIN_SECONDS": 600, "SPAWN_CONCURRENCY": 4}
PROGRAMS = ("api", "worker", "beat", "host", "relay", "valkey")
QUIET = 30


def agent(node: Node, *states: str) -> int | None:
    """Return the pid of an agent in one of some states, or None if there is none or the node does not answer."""
    with (
        contextlib.suppress(redis.RedisError),
        redis.Redis.from_url(node.redis_url, decode_responses=True, socket_timeout=2) as raw,
    ):
        for fields in records(raw).values():
            if fields.get("state") in states and fields.get("pid"):
                return int(fields["pid"])
    return None


@pytest.mark.timeout(SECONDS + 240)
def test_records_match_processes_after_random_kills(echo: Node) -> None:
    log.info(f"CHAOS_SEED={SEED}")
    chance = random.Random(SEED)
    killed: Counter[str] = Counter()
    until = time.monotonic() + SECONDS
    with Traffic(echo.url, rate=3, length=3) as traffic:
        while time.monotonic() < until:
            time.sleep(chance.uniform(1.5, 7.5))
            what = chance.choice((*PROGRAMS, "warm agent", "agent in a call"))
            match what:
                case "warm agent":
                    pid = agent(echo, "ready")
                case "agent in a call":
                    pid = agent(echo, "running", "assigned")
                case program:
                    pid = echo.program(program)
            with contextlib.suppress(ProcessLookupError):
                if pid:
                    os.kill(pid, signal.SIGKILL)
                    killed[what] += 1
    stopped = time.monotonic()
    log.info(f"killed {dict(killed)}; {len(traffic.accepted)} accepted, {dict(traffic.refused)}")
    assert traffic.accepted
    quiet = agrees(echo, QUIET + 15)
    log.info(f"agrees {quiet:.1f} s after the last stop was answered")
    poll(echo.ready, "a start would be served", 30, every=0.1)
    left = lambda: unsettled(echo, traffic.accepted)  # noqa: E731
    poll(lambda: not left(), "every accepted session is over", max(1.0, stopped + QUIET - time.monotonic()), every=1)
    ends = Counter(str(echo.session(one).get("reason")) for one in traffic.accepted)
    log.info(f"reasons: {dict(ends)}; CHAOS_SEED={SEED}")
    live = {one: status for one in traffic.accepted if (status := echo.session(one)["status"]) in {"ready", "active"}}
    assert not live, f"these sessions live although their stop was confirmed: {live}"
