"""The HTTP contract, in process on a real Valkey: bodies, problems, limits, examples."""

import os
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import redis
from fastapi import FastAPI

from orchestrator.api.app import create
from orchestrator.settings import Settings
from orchestrator.store import Store
from tests.support.pool import warm

ADMIN = {"Authorization": "Bearer a-token-for-tests"}


def settings(url: str, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "redis_url": url, "livekit_url": "ws://127.0.0.1:1", "livekit_api_key": "key", "livekit_api_secret": "s" * 40,
        "admin_token": "a-token-for-tests", "node_id": "api-test", "rate_limit": "1000/minute",
    }  # fmt: skip
    return Settings(**values | changes)


async def serve(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with app.router.lifespan_context(app):
        parts = app.state.services
        await parts.store.configure(parts.settings.policy, 0)  # as a node does when it starts
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("10.1.2.3", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


@pytest.fixture
async def http(raw: redis.Redis, valkey_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async for client in serve(create(settings(valkey_url))):
        yield client


@pytest.fixture
async def strict(raw: redis.Redis, valkey_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async for client in serve(create(settings(valkey_url, rate_limit="3/minute", max_sessions=2))):
        yield client


async def start(http: httpx.AsyncClient, user: str, **options: Any) -> httpx.Response:
    return await http.post("/api/session/start", json={"userId": user}, **options)


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["success"], body["status"], body["code"]) == (False, status, code)
    assert body["detail"]
    return body


async def test_hit_and_miss_answer_as_documented(http: httpx.AsyncClient, store: Store, valkey_url: str) -> None:
    (agent_id,) = await warm(store, valkey_url, 1)
    hit = await start(http, "ada")
    assert hit.status_code == 200
    body = hit.json()
    assert body.pop("latency").endswith("ms")
    assert body == {
        "success": True, "sessionId": agent_id, "status": "ready", "prewarmed": True,
        "message": "An agent is ready and joins the room.",
    }  # fmt: skip
    miss = await start(http, "grace")
    assert miss.status_code == 202
    body = miss.json()
    assert body["status"] == "starting"
    assert body["taskId"] == body["sessionId"]
    assert body["sessionId"].startswith("session_")
    assert body["estimatedWait"].endswith("s")
    look = (await http.get(f"/api/session/{body['sessionId']}")).json()
    assert (look["status"], look["queuePosition"], look["prewarmed"]) == ("starting", 1, False)
    look = (await http.get(f"/api/session/{agent_id}")).json()
    assert look["agentPid"] == 1000
    assert look["roomName"].startswith("room_")
    assert look["createdAt"].endswith("Z")
    assert look["startupTime"] >= 0


async def test_a_start_looks_at_the_process_before_it_answers(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    """The death of the only warm agent is not recorded yet: nobody is told that it is ready."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    (agent_id,) = await warm(store, valkey_url, 1, node="api-test")
    raw.hset(f"agent:{agent_id}", "pid", gone.pid)
    answer = await start(http, "ada")
    assert (answer.status_code, answer.json()["status"]) == (202, "starting")
    assert raw.hget(f"agent:{agent_id}", "cause") == "found dead at assignment"
    (agent_id,) = await warm(store, valkey_url, 1, node="api-test")
    raw.hset(f"agent:{agent_id}", mapping={"pid": os.getpid(), "startTicks": 1})
    assert (await start(http, "grace")).json()["status"] == "starting", "the pid is somebody else's by now"


async def test_a_miss_queues_one_task_of_its_name(http: httpx.AsyncClient, raw: redis.Redis) -> None:
    session_id = (await start(http, "ada")).json()["sessionId"]
    queued = raw.lrange("celery", 0, -1)
    assert sum("orchestrator.spawn_agent" in task and session_id in task for task in queued) == 1
    assert not [task for task in queued if "s" * 40 in task or "a-token-for-tests" in task]


async def test_too_many_starts_from_one_address(strict: httpx.AsyncClient) -> None:
    for _ in range(3):
        assert (await start(strict, "ada")).status_code == 202
    for forged in ({}, {"X-Forwarded-For": "1.2.3.4"}, {"X-Real-IP": "1.2.3.5"}):
        answer = await start(strict, "ada", headers=forged)
        body = is_problem(answer, 429, "rate_limited")
        assert int(answer.headers["Retry-After"]) == body["retryAfter"] >= 1
        assert "More than 3 starts a minute" in body["detail"]


async def test_the_house_is_full(strict: httpx.AsyncClient) -> None:
    for user in ("a", "b"):
        assert (await start(strict, user)).status_code == 202
    answer = await start(strict, "c")
    is_problem(answer, 429, "at_capacity")
    assert answer.headers["Retry-After"]


async def test_stop_is_idempotent_and_unknown_ids_are_404(http: httpx.AsyncClient, raw: redis.Redis) -> None:
    session_id = (await start(http, "ada")).json()["sessionId"]
    for message in ("The session is stopped.", "The session was over already (ended)."):
        answer = await http.post("/api/session/stop", json={"sessionId": session_id})
        assert answer.json() == {"success": True, "sessionId": session_id, "status": "ended", "message": message}
    assert sum("finish_session" in task for task in raw.lrange("celery", 0, -1)) == 1
    unknown = "session_" + "0" * 32
    is_problem(await http.post("/api/session/stop", json={"sessionId": unknown}), 404, "not_found")
    for path in (f"/api/session/{unknown}", f"/api/session/{unknown}/logs"):
        is_problem(await http.get(path), 404, "not_found")
    is_problem(await http.post("/api/token", json={"sessionId": unknown}), 404, "not_found")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"userId": ""}, {"userId": "a" * 129}, {"userId": "a\x00b"}, {"userId": 7}, {"userId": "a", "extra": 1},
        {"userId": "a", "metadata": {"x": "y" * 5000}}, {"userId": "a", "metadata": "text"}, [], "text",
    ],
)  # fmt: skip
async def test_bad_starts_are_refused_and_change_nothing(http: httpx.AsyncClient, raw: redis.Redis, body: Any) -> None:
    problem = is_problem(await http.post("/api/session/start", json=body), 422, "malformed_request")
    assert problem["errors"][0]["message"]
    assert raw.keys("session*") == []


async def test_bad_ids_never_reach_redis(http: httpx.AsyncClient) -> None:
    for bad in ("x", "user:ada", "prewarm_" + "g" * 32, "../../etc", "session_" + "0" * 33, "%00"):
        assert (await http.get(f"/api/session/{bad}")).status_code in {404, 422}
        is_problem(await http.post("/api/session/stop", json={"sessionId": bad}), 422, "malformed_request")


async def test_admin_routes_need_the_token(http: httpx.AsyncClient) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "a-token-for-tests"}):
        for answer in (
            await http.get("/api/sessions", headers=headers),
            await http.post("/api/pool/resize", json={"size": 1}, headers=headers),
        ):
            is_problem(answer, 401, "unauthorized")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert (await http.get("/api/sessions", headers=ADMIN)).json() == {"success": True, "sessions": [], "agents": []}
    resized = await http.post("/api/pool/resize", json={"size": 4}, headers=ADMIN)
    assert resized.json() == {"success": True, "target": 4, "pool": 0, "message": "The pool goes from 0 to 4."}
    for size in (-1, 501, "many"):
        is_problem(await http.post("/api/pool/resize", json={"size": size}, headers=ADMIN), 422, "malformed_request")


async def test_health_says_what_is_wrong(http: httpx.AsyncClient) -> None:
    assert (await http.get("/livez")).json() == {"success": True}
    problem = is_problem(await http.get("/readyz"), 503, "host_unavailable")
    assert "agent host" in problem["detail"]
    health = (await http.get("/api/health")).json()
    assert health["status"] == "degraded"
    assert health["sessions"]["pool"] == 0
    assert "no Celery worker has reported" in health["warnings"][0]


async def test_no_redis_is_503_and_no_hang() -> None:
    async for client in serve(create(settings("redis://127.0.0.1:1/0"))):
        is_problem(await start(client, "ada"), 503, "store_unavailable")
        is_problem(await client.get("/api/health"), 503, "store_unavailable")
        is_problem(await client.get("/readyz"), 503, "store_unavailable")
        assert (await client.get("/livez")).status_code == 200


async def test_unknown_routes_and_methods_are_problems_too(http: httpx.AsyncClient) -> None:
    is_problem(await http.get("/api/nothing"), 404, "not_found")
    is_problem(await http.get("/api/session/start/x"), 404, "not_found")
    is_problem(await http.put("/api/session/stop"), 405, "method_not_allowed")


async def test_large_bodies_are_refused_declared_or_not(http: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    for content in (b" " * 100_000, chunks()):
        answer = await http.post("/api/session/start", content=content, headers={"content-type": "application/json"})
        assert "larger than 65536 bytes" in is_problem(answer, 413, answer.json()["code"])["detail"]


async def test_every_route_has_an_example(http: httpx.AsyncClient) -> None:
    schema = (await http.get("/openapi.json")).json()
    components = schema["components"]["schemas"]

    def exemplified(content: dict[str, Any]) -> bool:
        media = content["application/json"]
        name = media["schema"].get("$ref", "").rpartition("/")[2]
        return bool(media.get("example") or media.get("examples") or components.get(name, {}).get("examples"))

    routes = {
        f"{method} {path}": route for path, methods in schema["paths"].items() for method, route in methods.items()
    }
    assert len(routes) == 10
    for name, route in routes.items():
        assert route["summary"], name
        success = next(answer for status, answer in route["responses"].items() if status.startswith("20"))
        assert exemplified(success["content"]), f"{name}: no example of the answer"
        if "requestBody" in route:
            assert exemplified(route["requestBody"]["content"]), f"{name}: no example of the request"
    assert components["Problem"]["examples"]
