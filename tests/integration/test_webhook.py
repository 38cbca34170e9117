"""Webhooks: access, results, and that no order of them ends a call."""

import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, cast

import httpx
import jwt
import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from livekit import api

from orchestrator.api.app import create
from orchestrator.livekit.rooms import Rooms
from orchestrator.models import new_id
from orchestrator.reasons import words
from orchestrator.settings import WEBHOOK_PATH, Settings
from orchestrator.store import Store
from orchestrator.store.loader import named
from orchestrator.worker.reconciler import Reconciler
from tests.integration.test_api import serve
from tests.support.agent_link import AgentLink
from tests.support.model.bench import Bench
from tests.support.model.dump import WAITS, Dump, ms
from tests.support.pool import assign, warm
from tests.support.proxy import FaultProxy
from tests.support.redis_clock import span

KEY, SECRET = "key", "s" * 40


@pytest.fixture
def config(valkey_url: str) -> Settings:
    return Settings(
        redis_url=valkey_url, livekit_url="ws://127.0.0.1:1", livekit_api_key=KEY, livekit_api_secret=SECRET,
        admin_token="a-token-for-tests", node_id="webhooks", rate_limit="1/hour",
    )  # fmt: skip


@pytest.fixture
async def http(store: Store, config: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(create(config)) as client:
        yield client


def event(kind: str = "participant_joined", room: str = "", **changes: Any) -> bytes:
    """Return a webhook's body in LiveKit's format."""
    told = {"event": kind, "id": new_id("EV"), "createdAt": str(int(time.time()))}
    return json.dumps(told | ({"room": {"name": room}} if room else {}) | changes).encode()


def signature(body: bytes, secret: str = SECRET, **changes: Any) -> str:
    """Return LiveKit's `Authorization` header; None removes a claim."""
    now = int(time.time())
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    claims = {"iss": KEY, "nbf": now, "exp": now + 300, "sha256": digest} | changes
    return jwt.encode({name: claim for name, claim in claims.items() if claim is not None}, secret, algorithm="HS256")


async def send(http: httpx.AsyncClient, body: bytes, token: str | None = None, **headers: str) -> httpx.Response:
    sent = {"content-type": "application/webhook+json", "authorization": token or signature(body)} | headers
    return await http.post(WEBHOOK_PATH, content=body, headers=sent)


def counted(raw: "redis.Redis") -> dict[str, int]:
    """Return the counters of webhooks, by event and result."""
    stats = raw.hgetall("pool:stats")
    return {name.removeprefix("webhook:"): int(n) for name, n in stats.items() if name.startswith("webhook:")}


# Access


async def test_a_signed_webhook_is_recorded(http: httpx.AsyncClient, raw: "redis.Redis") -> None:
    for media_type in ("application/webhook+json", "application/json", "Application/JSON; charset=utf-8"):
        answer = await send(http, event(), **{"content-type": media_type})
        assert (answer.status_code, answer.json()) == (200, {"success": True, "result": "foreign"})
    assert counted(raw) == {"participant_joined:foreign": 3}


def changed(**changes: Any) -> tuple[str, bytes]:
    """Return a signed webhook with other fields."""
    body = event(**changes)
    return signature(body), body


def ago(seconds: int) -> int:
    return int(time.time()) - seconds


#: (token, body) of webhooks that must be refused; each is created when it is sent, as tokens expire in five minutes.
UNSIGNED: dict[str, Callable[[bytes], tuple[str, bytes]]] = {
    "a tampered body": lambda body: (signature(body), body.replace(b"joined", b"left")),
    "a body with a further space": lambda body: (signature(body), body + b" "),
    "another secret": lambda body: (signature(body, "t" * 40), body),
    "another key": lambda body: (signature(body, iss="other"), body),
    "no digest": lambda body: (signature(body, sha256=None), body),
    "a digest that is none": lambda body: (signature(body, sha256="?"), body),
    "a digest of another type": lambda body: (signature(body, sha256=7), body),
    "expired": lambda body: (signature(body, nbf=ago(600), exp=ago(120)), body),
    "no expiry": lambda body: (signature(body, exp=None), body),
    "a scheme": lambda body: (f"Bearer {signature(body)}", body),
    "no signature": lambda body: (jwt.encode({"iss": KEY, "exp": ago(-60)}, None, algorithm="none"), body),
    "no token": lambda body: (" ", body),
    "rubbish": lambda body: ("a.b.c", body),
    "a user's token": lambda body: (api.AccessToken(KEY, SECRET).with_identity("ada").to_jwt(), body),
    "no JSON": lambda _: (signature(b"{"), b"{"),
    "no UTF-8": lambda _: (signature(b"\xff"), b"\xff"),
    "no webhook": lambda _: (signature(b"[]"), b"[]"),
    "nested too deep": lambda _: (signature(b"[" * 9999), b"[" * 9999),
    "no id": lambda _: changed(id=""),
    "a long id": lambda _: changed(id="x" * 129),
    "no event": lambda _: changed(event=""),
    "an event that could not be": lambda _: changed(event="joined:recorded"),
}


@pytest.mark.parametrize("name", UNSIGNED)
async def test_a_webhook_without_a_valid_signature_is_refused(
    http: httpx.AsyncClient, raw: "redis.Redis", name: str
) -> None:
    """Promise S10."""
    token, body = UNSIGNED[name](event())
    answer = await send(http, body, token)
    assert (answer.status_code, answer.json()["code"]) == (401, "webhook_refused")
    assert answer.headers["content-type"] == "application/problem+json"
    assert SECRET not in answer.text
    assert counted(raw) == {}
    assert not raw.keys("webhook:*")


async def test_a_webhook_without_an_authorization_header_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post(WEBHOOK_PATH, content=event(), headers={"content-type": "application/webhook+json"})
    assert (answer.status_code, answer.json()["code"]) == (401, "webhook_refused")


async def test_repeated_forged_webhooks_are_logged_once(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        await send(http, event(), "forged")
    assert caplog.text.count("a webhook is refused") == 1


async def test_a_webhook_from_a_slightly_wrong_clock_is_accepted(http: httpx.AsyncClient) -> None:
    """A clock that is slightly wrong, and a second delivery."""
    body, now = event(), int(time.time())
    assert (await send(http, body, signature(body, nbf=now + 30, exp=now + 330))).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
async def test_a_webhook_with_another_content_type_is_refused(
    http: httpx.AsyncClient, raw: "redis.Redis", kind: str
) -> None:
    answer = await send(http, event(), **{"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert counted(raw) == {}


@pytest.mark.parametrize("declared", [True, False])
async def test_a_webhook_body_has_its_own_size_limit(
    http: httpx.AsyncClient, raw: "redis.Redis", declared: bool
) -> None:
    """The limit is larger than that of other routes."""

    async def chunks(body: bytes) -> AsyncIterator[bytes]:
        yield body

    async def post(length: int) -> int:
        body = event(padding="x" * length)
        headers = {"content-type": "application/webhook+json", "authorization": signature(body)}
        content: Any = body if declared else chunks(body)
        return (await http.post(WEBHOOK_PATH, content=content, headers=headers)).status_code

    assert await post(250_000) == 200
    assert await post(300_000) == 413
    assert counted(raw) == {"participant_joined:foreign": 1}
    other = await http.post("/api/session/start", content=b"x" * 70_000)
    assert other.status_code == 413


async def test_webhooks_are_exempt_from_rate_limits_and_api_keys(http: httpx.AsyncClient) -> None:
    assert {(await send(http, event())).status_code for _ in range(20)} == {200}


# Results


async def session(store: Store, url: str, room: str, user: str = "ada") -> tuple[str, str]:
    """Begin a call; returns the ids of its session and its agent."""
    (agent_id,) = await warm(store, url, 1)
    session_id = (await assign(store, user, room_name=room)).session_id
    link = AgentLink(url, agent_id)
    await link.joined()
    await link.presence(session_id, present=True)
    await link.close()
    return session_id, agent_id


async def test_a_replay_counts_once(http: httpx.AsyncClient, raw: "redis.Redis") -> None:
    body = event()
    token = signature(body)
    results = [(await send(http, body, token)).json()["result"] for _ in range(3)]
    assert results == ["foreign", "replayed", "replayed"]
    assert counted(raw) == {"participant_joined:foreign": 1, "participant_joined:replayed": 2}
    (key,) = raw.keys("webhook:*")
    assert 600 < raw.ttl(key) <= 1800, "the id is kept longer than a webhook is accepted"


@pytest.mark.parametrize("minutes", [-11, 11])
async def test_an_old_webhook_is_ignored_as_stale(http: httpx.AsyncClient, raw: "redis.Redis", minutes: int) -> None:
    for body in (event(createdAt=str(int(time.time()) + minutes * 60)), event(createdAt="0")):
        answer = await send(http, body)
        assert (answer.status_code, answer.json()["result"]) == (200, "stale")
    assert not raw.keys("webhook:*")
    assert (await send(http, event(createdAt=str(int(time.time()) - 540)))).json()["result"] == "foreign"


async def test_a_webhook_about_our_room_schedules_a_check(
    http: httpx.AsyncClient, store: Store, raw: "redis.Redis", valkey_url: str
) -> None:
    session_id, _ = await session(store, valkey_url, "ours")
    await store.process_deadlines()
    for kind, looked in {
        "participant_left": True, "participant_connection_aborted": True, "participant_joined": True,
        "room_finished": True, "track_published": False, "egress_ended": False, "something_new": False,
    }.items():  # fmt: skip
        assert (await send(http, event(kind, "ours"))).json()["result"] == "recorded"
        found = [(action.what, action.id) for action in await store.process_deadlines()]
        assert found == ([("look", session_id)] if looked else []), kind
    assert (await send(http, event("participant_left", "theirs"))).json()["result"] == "foreign"
    assert await store.process_deadlines() == []
    found = await store.session(session_id)
    assert found is not None
    assert found.status == "active", "a webhook changes no state"
    assert [entry["event"] for entry in await store.events(session_id) if entry["state"] == "webhook"] == [
        "participant_connection_aborted"
    ]


async def test_a_room_of_an_ended_session_is_checked_when_it_starts_again(
    http: httpx.AsyncClient, store: Store, raw: "redis.Redis", valkey_url: str
) -> None:
    session_id, _ = await session(store, valkey_url, "ours")
    await store.end_session(session_id, "ended", words("asked for"))
    await store.room_closed(session_id)
    await store.process_deadlines()
    for kind, looked in {"participant_left": False, "room_finished": False, "room_started": True}.items():
        assert (await send(http, event(kind, "ours"))).json()["result"] == "recorded"
        assert bool(await store.process_deadlines()) is looked, kind
    assert await store.reconcile_room(session_id, "", exists=True) == "room_open"
    assert [(action.what, action.id) for action in await store.process_deadlines()] == [("close", session_id)]
    assert await store.reconcile_room(session_id, "", exists=True) == "", "the room is already being deleted"
    assert raw.ttl("session:room:ours") == pytest.approx(raw.ttl(f"session:{session_id}"), abs=2)


async def test_an_old_session_does_not_delete_the_room_of_a_new_one(
    http: httpx.AsyncClient, store: Store, raw: "redis.Redis", valkey_url: str
) -> None:
    """A room of another program, with several dispatches one after the other."""
    old, _ = await session(store, valkey_url, "theirs")
    await store.end_session(old, "ended", words("asked for"))
    new, _ = await session(store, valkey_url, "theirs")
    assert raw.ttl("session:room:theirs") == -1
    assert await store.reconcile_room(old, "", exists=True) == ""
    bound, over = await store.bound_and_over(0)
    assert ([one.id for one in bound], [one.id for one in over]) == ([new], [old])
    await store.end_session(new, "ended", words("asked for"))
    await store.room_closed(new)
    assert await store.reconcile_room(old, "", exists=True) == ""
    assert await store.reconcile_room(new, "", exists=True) == "room_open"


async def test_dropped_webhooks_schedule_a_check_of_all_rooms(
    http: httpx.AsyncClient, store: Store, raw: "redis.Redis"
) -> None:
    with span(raw) as first:
        await store.process_deadlines()
    assert first.has(raw.zscore("deadlines", "reconcile|"), 30_000, 60_000)
    raw.delete("deadlines:looked")  # however long this test pauses here, the next wait counts from now
    with span(raw) as told:
        await send(http, event("track_published", numDropped=3))
    planned = raw.zscore("deadlines", "reconcile|")
    assert told.has(planned, 2_000)
    await send(http, event("track_published", numDropped=3))
    assert raw.zscore("deadlines", "reconcile|") == planned, "further webhooks do not move it"


@pytest.mark.impatient
@pytest.mark.parametrize("fault", ["reset", "black_hole"])
async def test_a_webhook_is_accepted_again_after_an_outage_of_redis(
    store: Store, raw: "redis.Redis", valkey_url: str, config: Settings, fault: str
) -> None:
    """LiveKit repeats a webhook after a 5xx answer, never after a 4xx."""
    port = int(valkey_url.rpartition(":")[2].partition("/")[0])
    with FaultProxy("127.0.0.1", port) as proxy:
        through = config.model_copy(update={"redis_url": f"redis://127.0.0.1:{proxy.port}/0"})
        async with serve(create(through)) as http:
            body = event()
            getattr(proxy, fault)()
            answer = await send(http, body)
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
            assert answer.headers["retry-after"] == "5"
            assert (await send(http, body, "forged")).status_code == 401
            proxy.pass_through()
            assert (await send(http, body)).json()["result"] == "foreign"
    assert counted(raw) == {"participant_joined:foreign": 1}


# None of them ends a call

KINDS = (
    "room_started room_finished participant_joined participant_left participant_connection_aborted track_published "
    "track_unpublished egress_ended"
).split()
#: The events: a webhook (kind, number of its id, seconds ago, dropped), time (ms), or a check with a wrong answer
#: (a single check decides nothing).
webhooks = st.tuples(
    st.just("webhook"), st.sampled_from(KINDS), st.integers(0, 5), st.integers(-700, 700), st.sampled_from([0, 0, 2])
)
steps = st.one_of(
    webhooks, webhooks, st.tuples(st.just("time"), st.sampled_from([1, 250, 2_000, 2_900])),
    st.tuples(st.just("error"), st.sampled_from(["user", "agent", "room"])),
)  # fmt: skip


class House:
    """A call in which the user and the agent are in the room throughout."""

    def __init__(self, url: str) -> None:
        self.b = Bench(url)
        self.b.clear()
        limits = {"max_sessions": 9, "queue_limit": 9, "sessions_per_user": 1, "max_session_seconds": 1_000_000}
        self.b.redis.hset("policy", mapping=WAITS | limits)
        self.b.redis.set("pool:target", 1)
        self.b.redis.sadd("nodes", "n1")
        self.b.redis.hset("node:n1", "pid", 1)
        (self.agent,) = self.b.call("reserve_agents", "n1", "", "prewarm_1")
        self.b.call("claim_agent", self.agent, "n1", 0, keys=[f"agent:{self.agent}"])
        self.b.call("agent_ready", self.agent, 1)
        started = self.b.call("assign", *named(userId="ada", waitingId="session_1", roomName="r", payload="{}"))
        self.session = started[1]
        self.b.call("agent_joined", self.agent)
        self.b.call("agent_presence", self.session, self.agent, 1, 0)

    def look(self, wrong: str = "") -> str:
        told = {"user": "there", "agent": 1, "room": 1}
        if wrong:
            told |= {"user": {"user": "gone"}, "agent": {"agent": 0}, "room": {"user": "gone", "agent": 0, "room": 0}}[
                wrong
            ]
        return str(self.b.call("reconcile_room", self.session, self.agent, told["room"], told["user"], told["agent"]))

    def later(self, ms: int) -> list[str]:
        """Let time pass, with heartbeats of the agent; returns the node's resulting actions."""
        self.b.advance(ms)
        self.b.call("agent_beat", self.agent, keys=[f"agent:{self.agent}", "pool:ready"])
        return [what for what, _, _ in self.b.call("process_deadlines", 100)]

    def time(self, ms: int) -> None:
        """Let time pass, and do the requested checks as a node."""
        for what in self.later(ms):
            assert what in {"look", "reconcile"}, what
            self.look()

    def dump(self) -> Dump:
        return self.b.dump()


@pytest.mark.thorough
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(happens=st.lists(steps, max_size=30))
@example(happens=[("webhook", "participant_left", 0, 0, 0), ("webhook", "room_finished", 1, 0, 2), ("time", 2_900)])
@example(happens=[("error", "user"), ("time", 2_900), ("error", "user"), ("time", 2_900)])
def test_no_webhook_ends_a_call(valkey_url: str, happens: list[tuple[Any, ...]]) -> None:
    """Late, twice, in any order, or wrong: while user and agent are in the room, the call continues."""
    call = House(valkey_url)
    for kind, *what in happens:
        if kind == "webhook":
            name, number, ago, dropped = what
            at = int(call.dump().now / 1000) - ago
            call.b.call("webhook", f"EV_{number}", name, "r", at, dropped)
        elif kind == "time":
            call.time(what[0])
        else:
            # The check after each wrong answer gets the true state again.
            assert call.look(what[0]) in {"", "mismatch"}
            assert call.look() == ""
        now = call.dump()
        assert now.sessions[call.session]["status"] == "active"
        assert now.sessions[call.session]["agentId"] == call.agent
        assert f"gone|{call.session}" not in now.scores("deadlines")
        assert now.agents[call.agent]["state"] == "running"
    assert "user_left" not in [entry["state"] for _, entry in call.b.redis.xrange(f"session:{call.session}:events")]


# Where LiveKit corrects the record


@pytest.fixture
def call(valkey_url: str) -> House:
    found = House(valkey_url)
    found.b.call("process_deadlines", 100)
    return found


def fields(call: House) -> dict[str, str]:
    return call.dump().sessions[call.session]


def history(call: House) -> list[str]:
    return [entry["state"] for _, entry in call.b.redis.xrange(f"session:{call.session}:events")]


def waits(call: House, kind: str) -> float | None:
    """Return the remaining ms of one of the session's deadlines."""
    now = call.dump()
    at = now.scores("deadlines").get(f"{kind}|{call.session}")
    return None if at is None else at - now.now


def test_a_user_whom_livekit_misses_twice_has_left(call: House) -> None:
    assert call.look("user") == "mismatch"
    assert waits(call, "gone") is None
    assert waits(call, "look") == pytest.approx(2_000, abs=10)
    call.later(1_000)
    assert call.look("user") == "mismatch", "the second check comes too soon"
    call.later(1_100)
    assert call.look("user") == "user_gone"
    assert fields(call)["status"] == "active"
    assert waits(call, "gone") == pytest.approx(ms("user_gone_seconds"), abs=10)
    # LiveKit's answer may change back, so the room is checked until the end.
    call.later(2_000)
    assert call.look("user") == ""
    assert waits(call, "look") == pytest.approx(2_000, abs=10)
    assert waits(call, "gone") == pytest.approx(ms("user_gone_seconds") - 2_000, abs=10)
    assert call.look() == "user_there"
    assert waits(call, "gone") is None
    assert history(call)[-2:] == ["user_left", "user_back"]


def test_a_user_whom_livekit_misses_for_long_ends_the_session(call: House) -> None:
    for _ in range(6):
        call.look("user")
        call.later(2_100)
    assert (fields(call)["status"], fields(call)["reason"]) == ("ended", "user was gone for 4.5 s")
    assert "doubt" not in fields(call)


def test_mismatches_far_apart_are_not_combined(call: House) -> None:
    assert call.look("user") == "mismatch"
    call.later(20_000)
    assert call.look("user") == "mismatch"


def test_a_report_of_the_agent_resets_the_pending_mismatch(call: House) -> None:
    call.look("user")
    call.later(2_100)
    call.b.call("agent_presence", call.session, call.agent, 1, 0)
    assert call.look("user") == "mismatch"


def test_two_checks_are_needed_to_end_a_wait_that_the_agent_started(call: House) -> None:
    call.b.call("agent_presence", call.session, call.agent, 0, 0)
    assert call.look("user") == ""
    assert waits(call, "look") is None, "presence is the agent's to report"
    assert call.look() == "mismatch"
    assert waits(call, "gone") is not None
    call.later(2_100)
    assert call.look() == "user_there"
    assert waits(call, "gone") is None


def test_a_call_becomes_active_without_a_report_of_the_agent(call: House) -> None:
    other = House.__new__(House)
    other.b = call.b
    call.b.call("end_session", call.session, "ended", words("over").record())
    call.b.redis.set("pool:target", 2)
    call.later(1_000)
    other.agent = call.b.call("reserve_agents", "n1", "", "prewarm_2")[0]
    other.b.call("claim_agent", other.agent, "n1", 0, keys=[f"agent:{other.agent}"])
    other.b.call("agent_ready", other.agent, 1)
    other.session = other.b.call("assign", *named(userId="bob", waitingId="session_2", roomName="q", payload="{}"))[1]
    assert other.look() == "", "the agent is joining"
    other.b.call("agent_joined", other.agent)
    assert other.look() == "mismatch"
    other.later(2_100)
    assert other.look() == "user_there"
    assert fields(other)["status"] == "active"
    assert waits(other, "max") is not None


def test_an_agent_that_is_not_in_the_room_is_replaced(call: House) -> None:
    assert call.look("agent") == "", "the agent has only just joined"
    call.later(10_100)
    results = []
    for _ in range(6):
        results.append(call.look("agent"))
        call.later(2_100)
    assert results == ["mismatch"] * 5 + ["agent_lost"]
    found = fields(call)
    assert (found["status"], found["takeovers"]) == ("starting", "1")
    assert found["cause"] == "LiveKit does not find it in the room"
    assert call.dump().agents[call.agent]["state"] == "stopping"
    assert call.look("agent") == "", "a session in takeover is not checked"


def test_a_check_result_of_an_earlier_agent_is_ignored(call: House) -> None:
    call.look("user")
    call.later(2_100)
    assert call.b.call("reconcile_room", call.session, "prewarm_other", 1, "gone", 0) == ""
    assert call.look("user") == "mismatch"


def test_a_missing_room_counts_as_a_user_who_left(call: House) -> None:
    call.later(15_000)
    call.look("room")
    call.later(2_100)
    assert call.look("room") == "user_gone"
    assert fields(call)["status"] == "active"


def test_a_connecting_user_counts_as_neither_present_nor_gone(call: House) -> None:
    for _ in range(3):
        assert call.b.call("reconcile_room", call.session, call.agent, 1, "coming", 1) == ""
        call.later(2_100)
    assert waits(call, "gone") is None


# The rooms that are checked


class Server:
    """Replaces LiveKit's room service: answers from a list of rooms, and records the requests."""

    def __init__(self, *rooms: str) -> None:
        self.rooms = set(rooms)
        self.asked: set[str] = set()

    async def existing(self, names: Collection[str]) -> set[str]:
        self.asked |= set(names)
        return self.rooms & set(names)

    async def present(self, room: str) -> tuple[str, bool]:
        return "there", True


async def test_foreign_rooms_are_not_queried(store: Store, raw: "redis.Redis", valkey_url: str) -> None:
    ours, theirs = new_id("room"), "theirs"
    sessions = {room: (await session(store, valkey_url, room, user=room))[0] for room in (ours, theirs)}
    for each in sessions.values():
        await store.end_session(each, "ended", words("asked for"))
        await store.room_closed(each)
    server = Server(ours, theirs, "of somebody else")
    reconciler = Reconciler(store, cast(Rooms, server), 3600)
    await reconciler.all()
    for each in sessions.values():
        await reconciler.reconcile(each)
    assert server.asked == {ours}
    assert [(action.what, action.id) for action in await store.process_deadlines()] == [("close", sessions[ours])]


async def test_a_reconciliation_checks_every_call(store: Store, raw: "redis.Redis", valkey_url: str) -> None:
    rooms = [new_id("room") for _ in range(20)]
    ids = [(await session(store, valkey_url, room, user=room))[0] for room in rooms]
    waiting = (await assign(store, "waits")).session_id
    reconciler = Reconciler(store, cast(Rooms, Server(*rooms[:19])), 3600)
    await reconciler.all()
    doubted = [each for each in [*ids, waiting] if raw.hget(f"session:{each}", "doubt")]
    assert doubted == [ids[19]], "its room is gone"


async def test_a_check_is_repeated_when_livekit_does_not_answer(
    store: Store, raw: "redis.Redis", valkey_url: str
) -> None:
    session_id, _ = await session(store, valkey_url, new_id("room"))
    async with Rooms("ws://127.0.0.1:1", KEY, SECRET) as nobody:
        reconciler = Reconciler(store, nobody, 3600)
        with span(raw) as look:
            await reconciler.reconcile(session_id)
            await reconciler.all()
    assert look.has(raw.zscore("deadlines", f"look|{session_id}"), 2_000)
