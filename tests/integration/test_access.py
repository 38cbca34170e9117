"""Access: keys, client secrets, the admin token, and an API that is open only on loopback."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import redis

from orchestrator.api import attempts
from orchestrator.api.access import AFTERWARDS_SECONDS
from orchestrator.api.app import create
from orchestrator.models import new_id
from orchestrator.store import Store
from tests.support.api import ADMIN, is_problem, serve, settings, start
from tests.support.pool import warm

KEY, OTHER_KEY = "first-key-of-16-and-more", "second-key-of-16-and-more"
#: Routes without credentials: health checks of platforms, LiveKit's signed webhooks, and pages without data.
PUBLIC = {"/livez", "/readyz", "/api/livekit/webhook", "/api/reasons", "/", "/status"}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
async def http(store: Store, valkey_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """An API with keys."""
    async with serve(create(settings(valkey_url, api_keys=f"{KEY}, {OTHER_KEY}", host="0.0.0.0"))) as client:
        yield client


async def begin(http: httpx.AsyncClient, user: str) -> tuple[str, str]:
    body = (await start(http, user, headers=bearer(KEY))).json()
    return body["sessionId"], body["clientSecret"]


async def routes(http: httpx.AsyncClient) -> list[tuple[str, str, bool]]:
    """Return (method, path, whether it needs the admin token) of every route."""
    document = (await http.get("/openapi.json")).json()
    return [
        (method, path, "admin" in route.get("tags", ()))
        for path, methods in document["paths"].items()
        for method, route in methods.items()
    ]


def filled(path: str) -> str:
    path = path.replace("{session_id}", new_id("session")).replace("{agent_id}", new_id("prewarm"))
    return path.replace("{node}", "n").replace("{reload_id}", "0" * 16)


async def test_every_private_route_refuses_missing_or_wrong_credentials(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "MOST", 1000)
    asked = 0
    for method, path, _ in await routes(http):
        if path in PUBLIC:
            continue
        for headers in ({}, bearer("wrong"), {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}, bearer("")):
            answer = await http.request(method, filled(path), headers=headers, json={"userId": "a"})
            # Some routes check the body before the credentials: the schema is public.
            assert answer.status_code in {401, 422}, (method, path, answer.text)
            asked += answer.status_code == 401
    assert asked > 50


async def test_an_api_key_opens_session_routes_and_no_admin_routes(http: httpx.AsyncClient) -> None:
    for key in (KEY, OTHER_KEY):
        answer = await start(http, f"user-of-{key[:5]}", headers=bearer(key))
        assert answer.status_code == 202
        look = await http.get(f"/api/session/{answer.json()['sessionId']}", headers=bearer(key))
        assert look.status_code == 200
        assert (await http.get("/api/health", headers=bearer(key))).json()["access"] == "keys"
    operators = [(method, path) for method, path, admin in await routes(http) if admin]
    assert len(operators) > 5
    for method, path in operators:
        if path.endswith("/events"):
            continue  # with the token this stream never ends
        answer = await http.request(method, filled(path), headers=bearer(KEY), json={"size": 1})
        is_problem(answer, 403, "forbidden")
        assert (await http.request(method, filled(path), headers=ADMIN, json={"size": 1})).status_code != 403


async def test_health_warns_when_callers_cannot_reach_livekit(http: httpx.AsyncClient) -> None:
    found = (await http.get("/api/health", headers=ADMIN)).json()
    assert [warning for warning in found["warnings"] if warning.startswith("HOST=0.0.0.0: callers from elsewhere are")]
    assert found["status"] == "degraded"


async def test_a_client_secret_gives_access_to_its_own_session_only(
    http: httpx.AsyncClient, store: Store, valkey_url: str
) -> None:
    await warm(store, valkey_url, 2)
    sessions = [await begin(http, user) for user in ("ada", "grace")]
    unknown = new_id("session")
    for (mine, secret), (theirs, _) in itertools.permutations(sessions):
        headers = bearer(secret)
        look = (await http.get(f"/api/session/{mine}", headers=headers)).json()
        assert look["status"] == "ready"
        assert not {"client", "agents", "lastLogLines"} & look.keys()
        assert (await http.post("/api/token", json={"sessionId": mine}, headers=headers)).status_code == 201
        is_problem(await http.get(f"/api/session/{mine}/logs", headers=headers), 403, "forbidden")
        # Another user's session and an unknown one get the same answer.
        for other in (theirs, unknown):
            for method, path, body in (
                ("GET", f"/api/session/{other}", None),
                ("GET", f"/api/session/{other}/logs", None),
                ("GET", f"/api/session/{other}/events", None),
                ("POST", "/api/token", {"sessionId": other}),
                ("POST", "/api/session/stop", {"sessionId": other}),
            ):
                answer = await http.request(method, path, json=body, headers=headers)
                assert is_problem(answer, 404, "not_found")["detail"] == "There is no such session."
        is_problem(await start(http, "eve", headers=headers), 401, "unauthorized")
        is_problem(await http.post("/api/token", json={}, headers=headers), 401, "unauthorized")
        is_problem(await http.get("/api/sessions", headers=headers), 403, "forbidden")
    (mine, secret), _ = sessions
    assert (await http.post("/api/session/stop", json={"sessionId": mine}, headers=bearer(secret))).status_code == 200


async def test_a_client_secret_expires_shortly_after_the_end_of_its_session(
    http: httpx.AsyncClient, raw: redis.Redis
) -> None:
    session_id, secret = await begin(http, "ada")
    await http.post("/api/session/stop", json={"sessionId": session_id}, headers=bearer(secret))
    look = await http.get(f"/api/session/{session_id}", headers=bearer(secret))
    assert look.json()["reason"] == "stopped by request of the caller"
    ended = int(raw.hget(f"session:{session_id}", "endedAt"))
    raw.hset(f"session:{session_id}", "endedAt", ended - (AFTERWARDS_SECONDS + 1) * 1000)
    is_problem(await http.get(f"/api/session/{session_id}", headers=bearer(secret)), 404, "not_found")
    assert (await http.get(f"/api/session/{session_id}", headers=bearer(KEY))).status_code == 200


async def test_redis_stores_no_secrets(http: httpx.AsyncClient, raw: redis.Redis) -> None:
    key = {"Idempotency-Key": "k"}
    first, again = [await start(http, "ada", headers=bearer(KEY) | key) for _ in range(2)]
    assert first.json()["clientSecret"] == again.json()["clientSecret"]
    kept = " ".join(str(everything(raw, name)) for name in raw.keys("*"))
    assert first.json()["sessionId"] in kept
    assert first.json()["clientSecret"] not in kept
    assert KEY not in kept


def everything(raw: redis.Redis, name: str) -> Any:
    read: dict[str, Any] = {
        "string": raw.get, "hash": raw.hgetall, "set": raw.smembers, "stream": raw.xrange,
        "list": lambda name: raw.lrange(name, 0, -1), "zset": lambda name: raw.zrange(name, 0, -1),
    }  # fmt: skip
    return read[raw.type(name)](name)


async def test_an_open_api_accepts_only_loopback_hosts(store: Store, valkey_url: str) -> None:
    async with serve(create(settings(valkey_url))) as http:
        assert (await http.get("/api/health")).json()["access"] == "open"
        for host in ("localhost:8080", "127.0.0.1", "[::1]:8080", "app.localhost"):
            assert (await start(http, f"user-{len(host)}", headers={"Host": host})).status_code == 202
        # A foreign page whose name resolves to 127.0.0.1, and a proxy that is open by mistake.
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""):
            problem = is_problem(await start(http, "eve", headers={"Host": host}), 403, "invalid_host")
            assert "API_KEYS" in problem["detail"]
    async with serve(create(settings(valkey_url, open_access=True))) as http:
        assert (await start(http, "eve", headers={"Host": "app.example"})).status_code == 202


async def test_holders_of_a_key_are_not_limited_by_address(store: Store, valkey_url: str) -> None:
    keyed = settings(valkey_url, api_keys=KEY, rate_limit="2/minute")
    async with serve(create(keyed)) as http:
        answers = [await start(http, f"user-{n}", headers=bearer(KEY)) for n in range(5)]
        assert {answer.status_code for answer in answers} == {202}
    async with serve(create(settings(valkey_url, rate_limit="2/minute"))) as http:
        answers = [await start(http, f"other-{n}") for n in range(5)]
        assert [answer.status_code for answer in answers] == [202, 202, 429, 429, 429]


@pytest.mark.parametrize("trusted", ["", "192.0.2.0/24"])
async def test_forged_proxy_headers_do_not_change_the_limited_address(
    store: Store, valkey_url: str, trusted: str
) -> None:
    async with serve(create(settings(valkey_url, rate_limit="5/day", trusted_proxy=trusted))) as http:
        passed = 0
        for n in range(1000):
            forged = f"203.0.{n // 250}.{n % 250 + 1}"
            headers = dict.fromkeys(("X-Real-IP", "X-Forwarded-For", "Forwarded", "CF-Connecting-IP"), forged)
            passed += (await start(http, f"user-{n}", headers=headers)).status_code == 202
        assert passed == 5


async def test_only_configured_origins_are_allowed_by_cors(store: Store, valkey_url: str) -> None:
    def preflight(origin: str) -> dict[str, str]:
        return {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-sandbox-id",  # the request of LiveKit's starter app
        }

    async def allowed(http: httpx.AsyncClient, origin: str) -> bool:
        answer = await http.options("/api/token", headers=preflight(origin))
        assert "access-control-allow-credentials" not in answer.headers
        return answer.headers.get("access-control-allow-origin") in {origin, "*"} and answer.status_code == 200

    async with serve(create(settings(valkey_url))) as http:
        assert await allowed(http, "http://localhost:3000")
        assert await allowed(http, "http://127.0.0.1:5173")
        for origin in ("https://evil.example", "http://localhost.evil.example", "null", "http://localhost:3000.evil"):
            assert not await allowed(http, origin)
        answer = await http.post("/api/token", json={}, headers={"Origin": "http://localhost:3000"})
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        refused = await http.post("/api/session/start", json=[], headers={"Origin": "http://localhost:3000"})
        assert refused.headers["access-control-allow-origin"], "a page of another origin can read the error"
    async with serve(create(settings(valkey_url, api_keys=KEY))) as http:
        assert not await allowed(http, "http://localhost:3000")
    async with serve(create(settings(valkey_url, api_keys=KEY, cors_origins="https://a.example"))) as http:
        assert await allowed(http, "https://a.example")
        assert not await allowed(http, "https://b.example")
    async with serve(create(settings(valkey_url, api_keys=KEY, cors_origins="*"))) as http:
        assert await allowed(http, "https://b.example")


async def test_a_cross_site_form_starts_no_session(store: Store, valkey_url: str) -> None:
    async with serve(create(settings(valkey_url))) as http:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            answer = await http.post(
                "/api/session/start", content='{"userId": "eve"}', headers={"Content-Type": kind, "Origin": "null"}
            )
            assert answer.status_code == 422
        assert (await http.get("/api/sessions", headers=ADMIN)).json()["sessions"] == []
