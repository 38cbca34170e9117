"""More users than capacity: the session limit, the queue, resizes meanwhile, dead agents, floods from one address."""

import contextlib
import os
import random
import signal
import threading
import time
import xmlrpc.client
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.chaos.conftest import LONG
from tests.support.agreement import os_agents
from tests.support.hurt import connected, live, moment, processes
from tests.support.node import Node
from tests.support.processes import alive, poll
from tests.support.redis_clock import redis_time
from tests.support.sampler import Sampler
from tests.support.traffic import Traffic

STARTS, POOL, MOST, LINE = (1000, 50, 100, 400) if LONG else (60, 3, 6, 20)
#: No user joins these rooms, and slow machines must not fail the tests, so all time limits are long.
SETTINGS = {
    "POOL_TARGET": POOL, "MAX_SESSIONS": MOST, "QUEUE_LIMIT": LINE, "USER_JOIN_SECONDS": 600, "QUEUE_SECONDS": 600,
    "JOIN_TIMEOUT_SECONDS": 60, "START_TIMEOUT_SECONDS": 90, "HEARTBEAT_TIMEOUT_SECONDS": 30,
}  # fmt: skip
READY = {"ready", "active"}


def start(node: Node, user: str) -> httpx.Response:
    """Request a session and return any answer."""
    return node.http.post("/api/session/start", json={"userId": user}, timeout=30)


def crowd(node: Node, users: list[str]) -> list[httpx.Response]:
    """Start sessions for many users at the same time."""
    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(lambda user: start(node, user), users))


def has_agent(node: Node, session_id: str) -> dict[str, Any]:
    """Wait until a session has its agent."""
    look = lambda: (found := node.session(session_id))["status"] not in {"queued", "starting"} and found  # noqa: E731
    found: dict[str, Any] = poll(look, f"{session_id} has an agent", 90)
    assert found["status"] in READY, found
    return found


def clear(node: Node) -> None:
    """End every session, and wait for a full pool."""
    with connected(node) as raw:
        # The queue first, because its sessions would move up.
        lists = ("session:queued", "session:starting", "session:ready", "session:active")
        for name in lists:
            ids = raw.zrange(name, 0, -1) if name == "session:queued" else raw.smembers(name)
            for session_id in ids:
                node.end(session_id)
        target = int(raw.get("pool:target") or 0)
        poll(
            lambda: (counts := node.counts())["pool"] == target == counts["agents"],
            f"only a full pool is left: {node.counts()}",
            90,
        )


@pytest.fixture
def full(echo: Node) -> Any:
    """Fill the node to its limit; yields the sessions in the order of their start."""
    clear(echo)
    found = [echo.begin(f"seated{number}")["sessionId"] for number in range(MOST)]
    for session_id in found:
        has_agent(echo, session_id)
    poll(lambda: echo.counts()["pool"] == POOL, "the pool is full", 60)
    yield found
    clear(echo)


def test_the_session_limit_holds_during_a_rush(echo: Node) -> None:

    def look() -> tuple[int, int, Counter[str]]:
        return live(raw), len(os_agents(echo)), Counter(agent["status"] for agent in echo.agents())

    with connected(echo) as raw, Sampler(look, 0.1) as seen:
        answers = crowd(echo, [f"rush{number}" for number in range(STARTS)])
        served = [answer.json() for answer in answers if answer.is_success]
        began = [each["sessionId"] for each in served if each["status"] != "queued"]
        for session_id in began:
            has_agent(echo, session_id)
        poll(lambda: echo.counts()["pool"] == POOL, "the pool is full", 60)
    assert max(taken for taken, *_ in seen.values) == MOST
    # Bound agents and the pool; no session has ended yet.
    assert max(agents for _, agents, _ in seen.values) <= MOST + POOL, max(seen.values, key=lambda each: each[1])
    assert len(set(began)) == MOST
    line = sorted(each["position"] for each in served if each["status"] == "queued")
    # The position is read after joining the queue, so two concurrent starts may both get the later position.
    assert len(line) == LINE
    assert (line[0] >= 1, line[-1]) == (True, LINE)
    assert all(
        answer.status_code == 202 for answer in answers if answer.is_success and answer.json()["status"] == "queued"
    )
    refused = [answer for answer in answers if not answer.is_success]
    assert len(refused) == STARTS - MOST - LINE
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (429, "at_capacity")
        assert int(answer.headers["Retry-After"]) >= 1
    clear(echo)


def test_the_queue_is_first_in_first_out_and_advances_immediately(full: list[str], echo: Node) -> None:
    waiting = [echo.begin(f"waits{number}") for number in range(3)]
    assert [each["position"] for each in waiting] == [1, 2, 3]
    ids = [each["sessionId"] for each in waiting]
    with connected(echo) as raw:
        gaps = []
        for number, (leaver, next_one) in enumerate(zip(full, ids, strict=False)):
            poll(lambda: echo.counts()["pool"] >= 1, "a warm agent", 60)
            echo.end(leaver)
            has_agent(echo, next_one)
            gaps.append(moment(raw, next_one, "ready") - moment(raw, leaver, "ended"))
            still = [echo.session(session_id)["position"] for session_id in ids[number + 1 :]]
            assert still == list(range(1, len(still) + 1))
        print(f"a place is free → the next has its agent: {[f'{gap * 1000:.0f} ms' for gap in gaps]}")  # noqa: T201


def test_later_starts_never_overtake_the_queue(full: list[str], echo: Node) -> None:
    first = echo.begin("patient")["sessionId"]
    answers: list[dict[str, Any]] = []
    stop = threading.Event()

    def push() -> None:
        while not stop.is_set() and len(answers) < LINE - 2:
            answers.append(echo.begin(f"pushes{len(answers)}"))

    pusher = threading.Thread(target=push)
    pusher.start()
    echo.end(full[0])
    has_agent(echo, first)
    stop.set()
    pusher.join()
    assert {answer["status"] for answer in answers} <= {"queued"}


def test_queued_sessions_end_by_timeout_or_by_their_user(full: list[str], echo: Node) -> None:
    with connected(echo) as raw:
        cancelled = echo.begin("changes-his-mind")["sessionId"]
        behind = echo.begin("behind")["sessionId"]
        assert echo.end(cancelled)["status"] == "ended"
        assert echo.session(behind)["position"] == 1
        assert echo.session(cancelled)["status"] == "ended"
        usual = raw.hget("policy", "queue_seconds")
        raw.hset("policy", "queue_seconds", 1.5)
        try:
            hurried = echo.begin("hurried")["sessionId"]
        finally:
            raw.hset("policy", "queue_seconds", usual)
        given_up = poll(lambda: (found := echo.session(hurried))["status"] == "error" and found, "it is given up")
        # The text has the time it waited, not the policy at that moment.
        waited = given_up["reasonParams"]["seconds"]
        assert given_up["reasonCode"] == "queue_timeout"
        assert abs(waited - given_up["timings"]["ended"]) < 0.1
        assert given_up["reason"] == f"queue_timeout: no room within {waited:g} s"
        waited = moment(raw, hurried, "error") - moment(raw, hurried, "queued")
        assert waited >= 1.5, f"{waited:.2f} s"
        print(f"given up after {waited:.2f} s, 1.5 s are set")  # noqa: T201
        assert echo.session(behind)["position"] == 1
        # The user's own place was not counted twice: the next free place goes to the next user.
        echo.end(full[0])
        has_agent(echo, behind)


def test_queued_sessions_get_an_estimated_wait_once_it_is_known(full: list[str], echo: Node) -> None:
    with connected(echo) as raw:
        raw.hdel("pool:stats", "session_ms_mean")
        first = echo.begin("early")
        assert "estimatedWait" not in first
        echo.end(full[0])
        has_agent(echo, first["sessionId"])
        mean = float(raw.hget("pool:stats", "session_ms_mean") or 0)
        assert mean > 0
        told = echo.begin("later")
        assert float(told["estimatedWait"].removesuffix("s")) == pytest.approx(mean / 1000 / MOST, rel=0.06)


def test_one_user_never_exceeds_the_limit_per_user(echo: Node) -> None:
    clear(echo)
    with connected(echo) as raw:
        usual = raw.hget("policy", "sessions_per_user")
        raw.hset("policy", "sessions_per_user", 2)
        try:
            answers = crowd(echo, ["greedy"] * 40)
        finally:
            raw.hset("policy", "sessions_per_user", usual)
    assert len({answer.json()["sessionId"] for answer in answers if answer.is_success}) == 2
    # A start that only names the user does not get a session that another client began.
    assert {answer.json()["code"] for answer in answers if not answer.is_success} == {"user_has_session"}
    clear(echo)


def test_a_killed_warm_agent_is_never_assigned(echo: Node) -> None:
    clear(echo)
    dice = random.Random(4)
    for attempt in range(500 if LONG else 40):
        warm = poll(
            lambda: [agent for agent in echo.agents() if agent["status"] == "ready" and agent["pid"]], "a warm agent"
        )
        killed = [agent["pid"] for agent in warm]
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):  # a dead one of the previous turn may be listed
                os.kill(pid, signal.SIGKILL)
        time.sleep(dice.uniform(0, 0.05))
        started = echo.begin(f"corpse{attempt}")
        has_agent(echo, started["sessionId"])
        # An agent is bound and then found dead in two steps: a sample in between sees the dead one.
        poll(lambda: alive(echo.session(started["sessionId"]).get("agentPid", 0)), "its agent lives", 5)  # noqa: B023
        session = has_agent(echo, started["sessionId"])
        assert session["agentPid"] not in killed
        echo.end(started["sessionId"])
    clear(echo)


class Client(threading.Thread):
    """Starts and stops sessions until `over` is set; wrong observations are in `faults`."""

    def __init__(self, node: Node, name: str, over: threading.Event) -> None:
        super().__init__(name=name)
        self._node, self._over = node, over
        self.held = 0
        self.faults: list[str] = []

    def run(self) -> None:
        """Hold one session after the other."""
        dice = random.Random(self.name)
        try:
            while not self._over.is_set():
                self._hold(dice.uniform(0.5, 3))
        except Exception as failure:
            self.faults.append(repr(failure))

    def _hold(self, seconds: float) -> None:
        answer = start(self._node, self.name)
        if answer.status_code == 503:
            # With so many agents LiveKit may not answer in time; a start that is refused for that is repeated.
            assert answer.json()["code"] == "livekit_unavailable", answer.text
            time.sleep(seconds)
            return
        session_id = answer.json()["sessionId"]
        before = has_agent(self._node, session_id)
        time.sleep(seconds)
        after = self._node.session(session_id)
        if (after["status"], after["agentPid"], after["replacements"]) != (before["status"], before["agentPid"], 0):
            self.faults.append(f"{before} became {after}")
        elif not alive(after["agentPid"]):
            self.faults.append(f"the agent of {after} is dead")
        self._node.end(session_id)
        self.held += 1


@pytest.mark.timeout(1200 if LONG else 180)
def test_many_concurrent_starts_succeed_while_the_pool_is_resized(short_folder: Path) -> None:
    folder = short_folder / "storm"
    folder.mkdir()
    settings = SETTINGS | {"AGENT_MODULE": "agents/echo.py", "POOL_TARGET": 3, "MAX_SESSIONS": 50}
    seconds, every, sizes = (600, 5, (50, 0, 80, 10)) if LONG else (20, 2, (20, 0, 30, 5))
    with Node(folder, **settings) as node, connected(node) as raw:
        over = threading.Event()
        clients = [Client(node, f"storm{number}", over) for number in range(20)]
        with Sampler(lambda: live(raw), 0.1) as seen:
            for client in clients:
                client.start()
            until = time.monotonic() + seconds
            turn = 0
            while time.monotonic() < until:
                size = sizes[turn % len(sizes)]
                node.http.post("/api/pool/resize", json={"size": size}, headers=node.admin).raise_for_status()
                turn += 1
                time.sleep(every)
            node.http.post("/api/pool/resize", json={"size": 5}, headers=node.admin).raise_for_status()
            resized = time.monotonic()
            over.set()
            for client in clients:
                client.join(90)
        assert [fault for client in clients for fault in client.faults] == []
        poll(lambda: (counts := node.counts())["pool"] == 5 == counts["agents"], f"the pool is 5: {node.counts()}", 60)
        took = time.monotonic() - resized
        poll(lambda: len(processes(node)) == 5, f"five agents live: {processes(node)}")
        held = sum(client.held for client in clients)
        print(f"{held} sessions, {turn} resizes; pool == target {took:.1f} s after the last")  # noqa: T201
        assert held >= 20
        assert max(seen.values) <= 20


def test_a_flood_from_one_address_does_not_affect_other_addresses(short_folder: Path) -> None:
    folder = short_folder / "rate"
    folder.mkdir()
    settings = {"AGENT_MODULE": "agents/echo.py", "POOL_TARGET": 2, "RATE_LIMIT": "10/minute", "USER_JOIN_SECONDS": 600}
    count, seconds = (2000, 60) if LONG else (600, 20)
    with (
        Node(folder, **settings) as node,
        httpx.Client(base_url=node.url, timeout=10, transport=httpx.HTTPTransport(local_address="127.0.0.2")) as other,
        connected(node) as raw,
    ):
        answers: list[httpx.Response] = []
        over = threading.Event()

        def flood() -> None:
            began = time.monotonic()
            for number in range(count):
                forged = f"203.0.{number // 250}.{number % 250}"
                headers = {"X-Forwarded-For": forged, "X-Real-IP": forged, "Forwarded": f"for={forged}"}
                body = {"userId": f"flood{number}"}
                answers.append(node.http.post("/api/session/start", json=body, headers=headers))
                time.sleep(max(0.0, began + number * seconds / count - time.monotonic()))
            over.set()

        flooding = threading.Thread(target=flood)
        begun = redis_time(raw)
        flooding.start()
        poll(lambda: sum(answer.status_code == 429 for answer in answers) > 5, "the flood is refused")
        times = []
        for number in range(8):
            began = time.monotonic()
            started = other.post("/api/session/start", json={"userId": f"other{number}"})
            times.append(time.monotonic() - began)
            assert started.is_success, started.text
            assert other.post("/api/session/stop", json={"sessionId": started.json()["sessionId"]}).is_success
            answered = len(answers) + count // 20
            poll(lambda answered=answered: len(answers) > answered, "the flood goes on")  # type: ignore[misc]
        assert not over.is_set(), "the flood ended before the other users came"
        flooding.join()
        lasted = redis_time(raw) - begun
        print(f"starts of another address beside the flood: {[f'{each * 1000:.0f} ms' for each in times]}")  # noqa: T201
        passed = [answer for answer in answers if answer.is_success]
        _refused_with_a_reason([answer for answer in answers if not answer.is_success])
        # A sliding window counter: at the beginning of a window it allows at most the elapsed share of the old one.
        assert 10 <= len(passed) <= 10 + 10 * lasted / 60 + 1
        counters = raw.keys("rate:*")
        assert {name.rpartition(":")[0] for name in counters} == {"rate:127.0.0.1", "rate:127.0.0.2"}, counters


def _refused_with_a_reason(answers: list[httpx.Response]) -> None:
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        wait = int(answer.headers["Retry-After"])
        assert 1 <= wait <= 120
        assert answer.headers["RateLimit"] == f'"start";r=0;t={wait}'
        assert answer.headers["RateLimit-Policy"] == '"start";q=10;w=60'


def test_without_free_memory_no_agent_starts_and_the_reason_is_reported(short_folder: Path) -> None:
    folder = short_folder / "memory"
    folder.mkdir()
    settings = {"AGENT_MODULE": "agents/echo.py", "POOL_TARGET": 2, "USER_JOIN_SECONDS": 600}
    starved = Node(folder, **settings, MEMORY_HEADROOM_MB=100_000_000)
    answers = lambda: starved.http.get("/readyz").is_success  # noqa: E731
    try:
        starved.start(wait=False)
        with Sampler(lambda: len(processes(starved)), 0.05, ignore=(OSError, xmlrpc.client.Error)) as seen:
            poll(lambda: _quiet(answers), "the node is in service", 60)
            health = poll(
                lambda: (
                    (found := starved.health())["status"] == "degraded"
                    and any("MEMORY_HEADROOM_MB" in warning for warning in found["warnings"])
                    and found
                ),
                "the health route has the reason",
            )
            assert any("of memory are free" in warning for warning in health["warnings"])
            started = starved.begin("starved")
            assert (started["status"], started["position"]) == ("queued", 1)
            beat = int(next(iter(health["nodes"].values()))["lastBeat"])
            later = lambda: int(next(iter(starved.health()["nodes"].values()))["lastBeat"])  # noqa: E731
            poll(lambda: later() > beat + 3, "the node has checked its memory again")
            assert starved.session(started["sessionId"])["status"] == "queued"
        assert max(seen.values) == 0, "an agent was started without memory"
        with connected(starved) as raw:
            assert raw.hget("pool:stats", "total_spawned") is None
    finally:
        starved.stop()
    with Node(folder, **settings, MEMORY_HEADROOM_MB=0) as fed:
        assert fed.begin("fed")["status"] == "ready"
        warnings = fed.health()["warnings"]
        assert not [warning for warning in warnings if "memory" in warning], warnings


def _quiet(look: Any) -> bool:
    try:
        return bool(look())
    except (httpx.HTTPError, redis.RedisError):
        return False


@pytest.mark.timeout(180)
def test_the_pool_grows_with_arrivals_and_reports_the_reason(short_folder: Path) -> None:
    folder = short_folder / "auto"
    folder.mkdir()
    settings = {"AGENT_MODULE": "agents/echo.py", "POOL_AUTO": "true", "POOL_MIN": 1, "POOL_MAX": 5}
    with Node(folder, **settings, POOL_TARGET=1, USER_JOIN_SECONDS=600) as node:
        why = lambda: str(node.health()["sizing"] or "")  # noqa: E731
        poll(lambda: "need 1" in why(), "the reason for a target of 1 is shown")
        with Traffic(node.url, rate=4, length=1):
            poll(lambda: node.counts()["target"] >= 2, "the target is higher", 60, every=0.5)
            assert "starts/s times" in why()
        poll(lambda: node.counts()["target"] == 1, "no starts are counted any more", 120, every=0.5)
        poll(lambda: node.counts()["pool"] == 1 == node.counts()["agents"], "the pool has shrunk again", 30)
