"""Requests and their ids, in process on a real Valkey."""

import json
import logging
from collections.abc import AsyncIterator

import httpx
import pytest
import redis

from orchestrator.api.app import create
from orchestrator.store import Store
from tests.integration.test_api import ADMIN, serve, settings, start
from tests.support.pool import warm


@pytest.fixture
async def http(store: Store, valkey_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(create(settings(valkey_url))) as client:
        yield client


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def accesses(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    rows = [record for record in caplog.records if record.name == "orchestrator.access"]
    return [{name: vars(row)[name] for name in ("method", "path", "status")} for row in rows]


async def test_a_valid_request_id_is_kept_and_an_invalid_one_replaced(http: httpx.AsyncClient) -> None:
    given = "trace-1.a:B_2"
    assert (await http.get("/livez", headers={"X-Request-Id": given})).headers["x-request-id"] == given
    for bad in ("", "a b", "a\tb", "x" * 65, "é".encode().decode("latin-1"), '"}'):
        answer = await http.get("/livez", headers={"X-Request-Id": bad.encode("latin-1")})  # type: ignore[dict-item]
        assert len(answer.headers["x-request-id"]) == 32, bad
    first, second = [(await http.get("/livez")).headers["x-request-id"] for _ in range(2)]
    assert first != second


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("POST", "/livez", 405),
        ("POST", "/api/session/start", 422),
        ("GET", "/api/sessions", 401),
    ],
)
async def test_a_problem_has_the_request_id(http: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    answer = await http.request(method, path, headers={"X-Request-Id": "r1"})
    assert (answer.status_code, answer.headers.get_list("x-request-id")) == (status, ["r1"])


async def test_a_too_large_body_and_a_preflight_get_the_request_id(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/session/start", content=b"x" * 100_000, headers={"X-Request-Id": "r1"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (413, "r1")
    asked = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST", "X-Request-Id": "r2"}
    answer = await http.options("/api/session/start", headers=asked)
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "r2")


async def test_an_unexpected_error_is_answered_and_logged_with_the_request_id(
    store: Store, valkey_url: str, lines: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create(settings(valkey_url, log_format="json"))

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("a bug")

    async with serve(app) as client:
        answer = await client.get("/broken", headers={"X-Request-Id": "r1"})
    assert (answer.status_code, answer.headers.get_list("x-request-id")) == (500, ["r1"])
    assert answer.headers["content-type"] == "application/problem+json"
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    told = {line["logger"]: line for line in found}
    assert told["orchestrator.api"]["request_id"] == "r1"
    assert "RuntimeError: a bug" in told["orchestrator.api"]["exception"]
    access = told["orchestrator.access"]
    assert (access["request_id"], access["path"], access["status"]) == ("r1", "/broken", 500)


async def test_one_line_per_request_with_the_template_of_its_path(
    http: httpx.AsyncClient, store: Store, valkey_url: str, lines: pytest.LogCaptureFixture
) -> None:
    (agent,) = await warm(store, valkey_url, 1)
    await start(http, "ada")
    await http.get(f"/api/session/{agent}")
    await http.get("/api/sessions", headers=ADMIN)
    await http.get("/api/session/" + "x" * 200)
    for quiet in ("/livez", "/metrics"):
        await http.get(quiet)
    await http.get("/nowhere/%1b%5b31m")
    assert accesses(lines) == [
        {"method": "POST", "path": "/api/session/start", "status": 200},
        {"method": "GET", "path": "/api/session/{session_id}", "status": 200},
        {"method": "GET", "path": "/api/sessions", "status": 200},
        {"method": "GET", "path": "-", "status": 404},
        {"method": "GET", "path": "-", "status": 404},
    ]


async def test_lines_name_the_session(store: Store, valkey_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(create(settings(valkey_url, log_format="json"))) as client:
        session = (await start(client, "ada")).json()["sessionId"]
        await client.get(f"/api/session/{session}")
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["session_id"] for line in found if line["logger"] == "orchestrator.access"] == [session, session]


async def test_a_task_carries_the_id_of_its_request(http: httpx.AsyncClient, raw: redis.Redis) -> None:
    await start(http, "ada", headers={"X-Request-Id": "r1"})
    headers = [json.loads(task)["headers"] for task in raw.lrange("celery", 0, -1)]
    assert {header["request_id"] for header in headers} == {"r1"}


async def test_no_log_line_contains_a_secret(store: Store, valkey_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(create(settings(valkey_url, log_format="json"))) as client:
        secret = (await start(client, "ada")).json()["clientSecret"]
        await client.get("/api/sessions", headers=ADMIN)
        await client.get("/api/sessions?token=canary-in-the-query", headers=ADMIN)
    told = capsys.readouterr().err
    assert told
    for shown in (secret, "a-token-for-tests", "canary-in-the-query"):
        assert shown not in told
