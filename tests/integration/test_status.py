"""The status page's data, over real HTTP on a real Valkey: a snapshot, a stream of changes, and log streams."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import redis
from fastapi import FastAPI

from orchestrator.api import log_stream, status
from orchestrator.api.app import create
from orchestrator.reasons import because
from orchestrator.store import Store
from tests.support.agent_link import AgentLink
from tests.support.api import ADMIN, is_problem, on_a_port, settings, start
from tests.support.pool import warm

ROUTES = ("/api/status", "/api/status/events", f"/api/session/prewarm_{'0' * 32}/logs/events")
PATIENCE = 20


class Events:
    """The server-sent events of one open connection."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()

    async def next(self, *kinds: str) -> tuple[str, dict[str, Any], str]:
        """Return the kind, data and id of the next event of one of some kinds."""
        found: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if line:
                    found[name] = value
                elif found.get("event") in kinds:
                    return found["event"], json.loads(found["data"]), found.get("id", "")
                else:
                    found = {}
        raise AssertionError("the stream ended")

    async def over(self) -> None:
        """Wait for the end of the stream."""
        async with asyncio.timeout(PATIENCE):
            async for _ in self._lines:
                pass


@pytest.fixture
async def app(store: Store, valkey_url: str) -> FastAPI:
    return create(settings(valkey_url))


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the admin token for a served API, which receives streams as they are sent."""
    async with on_a_port(app) as client:
        client.headers.update(ADMIN)
        yield client


async def soon(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if true():
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def follow(http: httpx.AsyncClient, path: str, **headers: str) -> AsyncIterator[Events]:
    async with http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Events(answer)


async def begin(http: httpx.AsyncClient, user: str) -> str:
    return str((await start(http, user)).json()["sessionId"])


@pytest.mark.parametrize("path", ROUTES)
async def test_the_status_requires_the_admin_token(http: httpx.AsyncClient, path: str) -> None:
    is_problem(await http.get(path, headers={"Authorization": ""}), 401, "unauthorized")
    is_problem(await http.get(path, headers={"Authorization": "Bearer wrong"}), 401, "unauthorized")


@pytest.mark.parametrize("path", ROUTES)
async def test_an_api_key_or_a_client_secret_is_not_enough(store: Store, valkey_url: str, path: str) -> None:
    app = create(settings(valkey_url, api_keys="key-of-a-backend-1234567890123456"))
    async with app.router.lifespan_context(app):
        secret = app.state.services.access.client_secret(f"prewarm_{'0' * 32}")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            for shown in ("key-of-a-backend-1234567890123456", secret):
                answer = await http.get(path, headers={"Authorization": f"Bearer {shown}"})
                is_problem(answer, 403, "forbidden")


async def test_the_page_is_public_and_may_load_only_itself(http: httpx.AsyncClient) -> None:
    for path in ("/status", "/web/main.js", "/web/status.css", "/web/icon.svg"):
        answer = await http.get(path, headers={"Authorization": ""})
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    page = (await http.get("/status")).text
    assert "http://" not in page
    assert "https://" not in page
    assert "style=" not in page
    assert page.count("<script") == page.count('<script type="module" src=')
    assert (await http.get("/web/../settings.py")).status_code == 404
    assert (await http.get("/web/%2e%2e/settings.py")).status_code == 404
    again = await http.get("/web/main.js", headers={"If-None-Match": (await http.get("/web/main.js")).headers["etag"]})
    assert again.status_code == 304


async def test_one_answer_contains_the_whole_status(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    (agent_id,) = await warm(store, valkey_url, 1)
    link = AgentLink(valkey_url, agent_id)
    session_id = await begin(http, "ada")
    await link.joined()
    await link.presence(session_id, present=True)
    await link.first_audio(session_id)
    await link.close()
    raw.hset("beat:ticks", mapping={"beat": raw.time()[0] - 100, "refill": 1767268800})
    await store.record_health(agent_id, {"memory_bytes": 9 << 20, "status": "ok"})

    found = (await http.get("/api/status")).json()
    (session,) = found["sessions"]
    assert (session["sessionId"], session["status"], session["userId"]) == (session_id, "active", "ada")
    (agent,) = found["agents"]
    assert (agent["agentId"], agent["sessionId"], agent["memory"]) == (agent_id, session_id, 9 << 20)
    assert agent["createdAt"].endswith("Z")
    assert found["health"]["sessions"]["active"] == 1
    stalled = "no Celery worker has reported for 10 s: cold starts and pool refills are stalled"
    assert stalled in found["health"]["warnings"]
    assert found["queueLimit"] == 100
    ((at, seconds),) = found["charts"]["firstAudio"]
    assert seconds == session["timings"]["firstAudio"]
    assert found["at"] - 60 < at <= found["at"]
    async with asyncio.timeout(60):
        starts: list[list[float]] = []
        while not starts:  # samples are buffered before they are written
            starts = (await http.get("/api/status")).json()["charts"]["start"]
    ((at, seconds),) = starts
    assert 0 < seconds < 60
    assert found["at"] - 60 < at
    assert found["beat"]["lives"] is False
    assert found["beat"]["tasks"]["refill"] == {"every": 30, "last": 1767268800.0}
    assert found["beat"]["tasks"]["health-check"] == {"every": 60}
    raw.hset("beat:ticks", "beat", raw.time()[0])
    assert (await http.get("/api/status")).json()["beat"]["lives"] is True
    assert found["failures"] == []


async def test_each_failure_is_listed_once_with_its_cause(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    warmed = await warm(store, valkey_url, 3)
    session_id = await begin(http, "ada")
    bound = (await http.get(f"/api/session/{session_id}")).json()["agentId"]
    raw.delete(f"agent:{bound}:inbox")  # it has read its messages
    await store.record_exit(bound, because("killed", signal=9), signal=9)
    found = await _failures(http)
    # The agent's death and the replacement in its session are listed as one failure.
    assert [(row["kind"], row["cause"], row["sessionId"]) for row in found] == [
        ("replacement", "killed by signal 9", session_id)
    ]
    now_bound = (await http.get(f"/api/session/{session_id}")).json()["agentId"]
    idle = next(agent for agent in warmed if agent not in {bound, now_bound})
    await store.record_exit(idle, because("crashed", exitCode=3), exit_code=3)
    await store.end_session(session_id, "error", because("agent_error", detail="KeyError"))
    booting = "prewarm_" + "b" * 32
    await store.set_target(50)
    assert await store.reserve_agents([booting], "n1") == [booting]
    await store.record_exit(booting, because("boot_error", cause="crashed", exitCode=1, detail="no such module"))
    found = await _failures(http)
    assert [(row["kind"], row["cause"]) for row in found] == [
        ("boot", "boot_error: exited with code 1: no such module"),
        ("session", "agent_error: KeyError"),
        ("agent", "exited with code 3"),
        ("replacement", "killed by signal 9"),
    ]


async def _failures(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await http.get("/api/status")).json()["failures"]
    return found


async def test_only_changes_are_pushed(app: FastAPI, http: httpx.AsyncClient, store: Store, valkey_url: str) -> None:
    await warm(store, valkey_url, 2)
    before = await begin(http, "before")
    async with follow(http, "/api/status/events") as events:
        kind, everything, _ = await events.next("snapshot", "change")
        assert kind == "snapshot"
        assert [row["sessionId"] for row in everything["sessions"]] == [before]
        session_id = await begin(http, "ada")
        while "sessions" not in (told := (await events.next("change"))[1]):
            pass
        assert [row["sessionId"] for row in told["sessions"]] == [session_id]
        assert told["health"]["sessions"]["ready"] == 2
        assert "beat" not in told
        before_it_left = told["sessions"][0]["lastEvent"]
        link = AgentLink(valkey_url, session_id)
        await link.joined()
        await link.presence(session_id, present=True)
        await link.presence(session_id, present=False)  # changes no state, but is sent
        await link.close()
        while not (rows := (await events.next("change"))[1].get("sessions")):
            pass
        assert rows[0]["lastEvent"] > before_it_left
        await store.end_session(session_id, "ended", because("stopped"))
        while not (rows := (await events.next("change"))[1].get("sessions")) or "reason" not in rows[0]:
            pass
        assert [(row["sessionId"], row["reason"]) for row in rows] == [(session_id, "stopped by request")]
        app.state.services.feed.close()
        await events.over()


async def test_a_session_missing_from_redis_is_removed(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await warm(store, valkey_url, 1)
    session_id = await begin(http, "ada")
    async with follow(http, "/api/status/events") as events:
        await events.next("snapshot")
        raw.zrem("sessions", session_id)
        raw.srem("session:ready", session_id)
        while not (gone := (await events.next("change"))[1].get("gone")):
            pass
        assert gone == [session_id]


async def test_listeners_are_limited_and_release_their_seat(app: FastAPI, http: httpx.AsyncClient) -> None:
    app.state.seats = asyncio.Semaphore(1)
    assert status.SEATS >= 8
    async with follow(http, "/api/status/events") as events:
        await events.next("snapshot")
        refused = await http.get("/api/status/events")
        assert is_problem(refused, 429, "too_many_listeners")["retryAfter"] == 10
    await soon(lambda: not app.state.seats.locked())
    async with follow(http, "/api/status/events") as events:
        await events.next("snapshot")


async def test_an_outage_of_redis_is_reported(
    app: FastAPI, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.errors import StoreUnavailable

    async with follow(http, "/api/status/events") as events:
        await events.next("snapshot")
        store = app.state.services.store

        async def away() -> None:
            raise StoreUnavailable("Redis does not answer")

        with monkeypatch.context() as patched:
            patched.setattr(type(store), "reading", lambda _self: away())
            _, told, _ = await events.next("trouble")
            assert told == {"detail": "Redis does not answer"}
        await events.next("snapshot")  # a full snapshot: the earlier one may be outdated


async def test_each_log_line_is_pushed_once_as_it_is_written(
    http: httpx.AsyncClient, store: Store, valkey_url: str
) -> None:
    await warm(store, valkey_url, 1)
    session_id = await begin(http, "ada")
    await store.append_logs(session_id, ["one", "two"], 500)
    path = f"/api/session/{session_id}/logs/events"
    async with follow(http, path) as events:
        _, told, first = await events.next("lines")
        assert told == {"agentId": session_id, "lines": ["one", "two"], "missed": 0}
        await store.append_logs(session_id, ["three"], 500)
        _, told, second = await events.next("lines")
        assert told["lines"] == ["three"]
    await store.append_logs(session_id, ["four"], 500)
    for place, rest in ((first, ["three", "four"]), (second, ["four"])):
        async with follow(http, path, **{"Last-Event-ID": place}) as events:
            assert (await events.next("lines"))[1]["lines"] == rest


async def test_trimmed_lines_are_counted(http: httpx.AsyncClient, store: Store, valkey_url: str) -> None:
    await warm(store, valkey_url, 1)
    session_id = await begin(http, "ada")
    await store.append_logs(session_id, [f"line {number}" for number in range(25)], 10)
    async with follow(http, f"/api/session/{session_id}/logs/events") as events:
        _, told, _ = await events.next("lines")
        assert (told["missed"], told["lines"][0], len(told["lines"])) == (15, "line 15", 10)
        # Lines that were written and trimmed between two reads.
        await store.append_logs(session_id, [f"more {number}" for number in range(30)], 10)
        _, told, _ = await events.next("lines")
        assert (told["missed"], told["lines"][0], told["lines"][-1]) == (20, "more 20", "more 29")


async def test_a_log_lost_by_redis_restarts_from_the_beginning(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await warm(store, valkey_url, 1)
    session_id = await begin(http, "ada")
    await store.append_logs(session_id, ["old one", "old two"], 500)
    async with follow(http, f"/api/session/{session_id}/logs/events") as events:
        await events.next("lines")
        raw.delete(f"agent:{session_id}:logs", f"agent:{session_id}:logs:count")
        await store.append_logs(session_id, ["new"], 500)
        _, told, _ = await events.next("lines")
        assert (told["lines"], told["missed"]) == (["new"], 0)


async def test_a_log_stream_ends_after_the_last_lines(
    http: httpx.AsyncClient, store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "LAST_WORDS_SECONDS", 0.5)
    await warm(store, valkey_url, 1)
    session_id = await begin(http, "ada")
    async with follow(http, f"/api/session/{session_id}/logs/events") as events:
        await store.append_logs(session_id, ["hello"], 500)
        await events.next("lines")
        await store.end_session(session_id, "ended", because("stopped"))
        await store.record_exit(session_id, because("finished", exitCode=0), exit_code=0)
        await store.append_logs(session_id, ["[agent exited with code 0]"], 500)
        assert (await events.next("lines", "end"))[1]["lines"] == ["[agent exited with code 0]"]
        assert (await events.next("lines", "end"))[0] == "end"
        await events.over()


@pytest.mark.parametrize("place", ["1", "x:1", f"prewarm_{'0' * 32}:", f"prewarm_{'0' * 32}:1,", "a" * 5000])
async def test_an_invalid_position_is_refused(
    http: httpx.AsyncClient, store: Store, valkey_url: str, place: str
) -> None:
    await warm(store, valkey_url, 1)
    session_id = await begin(http, "ada")
    answer = await http.get(f"/api/session/{session_id}/logs/events", headers={"Last-Event-ID": place})
    is_problem(answer, 422, "malformed_request")


async def test_logs_of_an_unknown_session_are_not_found(http: httpx.AsyncClient) -> None:
    is_problem(await http.get(f"/api/session/prewarm_{'0' * 32}/logs/events"), 404, "not_found")
