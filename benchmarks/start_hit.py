"""P1: the duration of a start that gets a warm agent."""

import json
import random
import time

from benchmarks.support import PING, Aim, Api, Connection, Figure, api, note, percentile, start_request

ROUNDS = 1_000
WARM_UP = 50
AIM = Aim("ratio", 1.5)

#: The Redis key that marks a refill as queued, and the list in which it is queued.
PENDING, QUEUE = "pool:refill", "celery"
REFERENCE, HIT, FIRST_HIT = "ping", "hit", "first hit"


def measure() -> list[Figure]:
    """Time starts and pings one after the other, from one keep-alive connection."""
    times: dict[str, list[float]] = {REFERENCE: [], HIT: [], FIRST_HIT: []}
    sessions: set[str] = set()
    kinds = list(times)
    order = random.Random(1)
    note(f"P1: {ROUNDS} rounds of one ping and two starts")
    with api(warm=2 * (ROUNDS + WARM_UP) + 6_000) as served:
        connection = Connection(served.port)
        for number in range(-WARM_UP, ROUNDS):
            order.shuffle(kinds)
            for kind in kinds:
                seconds, session = _ask(served, connection, kind, f"{kind}-{number}")
                if session:
                    assert session not in sessions, f"{session} was returned by two starts"
                    sessions.add(session)
                if number >= 0:
                    times[kind].append(seconds * 1000)
        connection.close()
    return [
        Figure(f"{name}, p{share:.0%}".rstrip("%"), percentile(times[kind], share), "ms",
               percentile(times[REFERENCE], share), "a route with one PING", AIM if share == 0.5 else None)
        for kind, name in ((FIRST_HIT, "start that queues the refill"), (HIT, "start while a refill is queued"))
        for share in (0.5, 0.99)
    ]  # fmt: skip


def _ask(served: Api, connection: Connection, kind: str, user: str) -> tuple[float, str | None]:
    """Time one request; returns the id of the session that it started."""
    if kind == FIRST_HIT:
        served.redis.delete(PENDING)
    else:
        served.redis.set(PENDING, "1")
    request = PING if kind == REFERENCE else start_request(user)
    begun = time.perf_counter()
    status, body = connection.ask(request)
    seconds = time.perf_counter() - begun
    answer = json.loads(body)
    assert status == 200, answer
    if kind == FIRST_HIT:
        # The task is queued after the answer; wait for it, so that its cost does not count in the next request.
        assert served.redis.blpop([QUEUE], timeout=10), "the refill was not queued"
    if kind == REFERENCE:
        return seconds, None
    assert answer["prewarmed"] is True, answer
    return seconds, answer["sessionId"]
