"""T26: nothing grows while sessions come and go."""

import logging
import os
import statistics
import time

import pytest
import redis

from tests.support.agreement import agrees
from tests.support.chaos import connections, fds, rss, zombies
from tests.support.node import Node
from tests.support.traffic import Traffic

log = logging.getLogger(__name__)

SECONDS = float(os.environ.get("SOAK_SECONDS", "30"))
SETTINGS = {"POOL_TARGET": 4, "USER_JOIN_SECONDS": 600, "SPAWN_CONCURRENCY": 4}
# LiveKit is not checked: its heap depends on how many rooms were opened recently.
PROGRAMS = ("api", "worker", "beat", "host", "relay", "valkey")
#: Allowed growth from the second quarter of the run to the last: of a program in MiB and descriptors, of Redis in keys.
MEMORY, DESCRIPTORS, KEYS = 16, 16, 60
#: Maximum connections of a process with Redis, Redis itself included: the API and the worker have two pools of 64.
CONNECTIONS = 300
#: Keys with an expiry: those of ended sessions and exited agents, and those that each ten seconds and each boot create
#: for about a minute.
KEPT = (
    "session:prewarm_",
    "session:session_",
    "session:room:",
    "webhook:",
    "agent:",
    "celery:result:",
    "arrivals:",
    "rate:",
    "unacked",
)


@pytest.mark.timeout(SECONDS + 180)
def test_nothing_grows_while_sessions_come_and_go(echo: Node) -> None:
    pids = {name: echo.program(name) or 0 for name in PROGRAMS}
    memory: dict[str, list[int]] = {name: [] for name in PROGRAMS}
    descriptors: dict[str, list[int]] = {name: [] for name in PROGRAMS}
    pooled: list[int] = []
    keys: list[int] = []
    with (
        redis.Redis.from_url(echo.redis_url, decode_responses=True) as raw,
        Traffic(echo.url, rate=3, length=2) as traffic,
    ):
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            for name, pid in pids.items():
                memory[name].append(rss(pid))
                # A connection pool keeps the connections of its busiest moment, up to a bound: that is not growth.
                pooled.append(redis_of := connections(pid))
                descriptors[name].append(fds(pid) - redis_of)
            keys.append(sum(not name.startswith(KEPT) for name in raw.scan_iter(count=5000)))
            time.sleep(SECONDS / 100)
    assert {name: echo.program(name) for name in PROGRAMS} == pids, "a program was restarted"
    assert not traffic.refused
    for name in PROGRAMS:
        more = growth(memory[name]) / 2**20, growth(descriptors[name])
        log.info(f"{name}: {more[0]:+.1f} MiB, {more[1]:+.0f} descriptors; {memory[name][-1] / 2**20:.0f} MiB")
        assert more[0] < MEMORY, f"{name} has grown by {more[0]:.1f} MiB"
        assert more[1] < DESCRIPTORS, f"{name} has {more[1]:.0f} more descriptors"
    log.info(
        f"Redis: {growth(keys):+.0f} keys that are not kept records, of {keys[-1]}; {len(traffic.accepted)} starts"
    )
    assert growth(keys) < KEYS
    assert max(pooled) < CONNECTIONS
    agrees(echo, 30)
    assert zombies(echo.pids()) == []


def growth(samples: list[int]) -> float:
    """Return the median of the last quarter minus that of the second; the first quarter is warm-up."""
    quarter = len(samples) // 4
    return statistics.median(samples[-quarter:]) - statistics.median(samples[quarter : 2 * quarter])
