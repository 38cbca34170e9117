"""Checks before the routes: credentials before bodies, few kinds of errors, bounded depth, no keys from headers."""

from collections.abc import AsyncIterator

import pytest
import redis

from orchestrator.api.app import create
from orchestrator.api.gate import DEPTH, bound
from tests.support.api import serve, settings

ADMIN = {"Authorization": "Bearer a-token-for-tests"}


async def _body_that_must_not_be_read() -> AsyncIterator[bytes]:
    raise AssertionError("the body was read")
    yield b""


async def test_credentials_are_checked_before_the_body_is_read(valkey_url: str, raw: redis.Redis) -> None:
    app = create(settings(valkey_url, api_keys="a-key-of-the-tests"))
    async with serve(app) as http:
        walked = 0
        for path, methods in app.openapi()["paths"].items():
            if "post" not in methods:
                continue
            concrete = path.replace("{session_id}", "prewarm_" + "0" * 32).replace("{node}", "n1")
            answer = await http.post(
                concrete,
                content=_body_that_must_not_be_read(),
                headers={"Content-Type": "application/json", "Authorization": "Bearer wrong-wrong-wrong-wrong"},
            )
            assert answer.status_code in {401, 403, 404, 415, 429}, f"{path}: {answer.status_code} {answer.text}"
            walked += 1
        assert walked > 6


async def test_errors_are_few_and_short(valkey_url: str, raw: redis.Redis) -> None:
    async with serve(create(settings(valkey_url))) as http:
        for body in (
            {str(n): n for n in range(5000)},
            {str(n): n for n in range(30)},
            {"x" * 60_000: 1},
            {"userId": ["x" * 60_000]},
            {"userId": "ada", "metadata": [1] * 2000},
        ):
            answer = await http.post("/api/session/start", json=body)
            assert answer.status_code == 422, answer.text[:200]
            assert len(answer.content) < 8192
            assert len(answer.json()["errors"]) <= 10


@pytest.mark.parametrize("depth", [DEPTH + 1, 900, 958, 5000, 30_000])
@pytest.mark.parametrize("opened", ["[", '{"a":'])
async def test_deeply_nested_json_is_refused_before_parsing(
    valkey_url: str, raw: redis.Redis, depth: int, opened: str
) -> None:
    closed = "]" if opened == "[" else "}"
    deep = opened * depth + "1" + closed * depth
    async with serve(create(settings(valkey_url))) as http:
        for path, body in (
            ("/api/session/start", f'{{"userId": "ada", "metadata": {{"a": {deep}}}}}'),
            ("/api/token", f'{{"room_config": {deep}}}'),
            ("/api/pool/resize", deep),
        ):
            answer = await http.post(
                path, content=body, headers={"Content-Type": "application/json"} | (ADMIN if "pool" in path else {})
            )
            assert answer.status_code in {413, 422}, f"{path}: {answer.status_code}"


def test_brackets_in_strings_do_not_count_as_nesting() -> None:
    bound(('{"a": "' + "[" * 5000 + '\\"' + "{" * 5000 + '"}').encode())


@pytest.mark.parametrize("forged", ["kk:answer", "dispatch:AJ_1", "kk", "*", "a b", "../x", "{x}"])
async def test_no_header_forges_an_internal_key(valkey_url: str, raw: redis.Redis, forged: str) -> None:
    async with serve(create(settings(valkey_url))) as http:
        first = await http.post("/api/session/start", json={"userId": "ada"}, headers={"Idempotency-Key": "kk"})
        assert first.status_code == 202
        answer = await http.post("/api/session/start", json={"userId": "bob"}, headers={"Idempotency-Key": forged})
        if forged == "kk":
            assert answer.status_code in {409, 422}
        else:
            assert answer.status_code == 202
        assert [key for key in raw.keys("idempotency:*") if forged in key and forged != "a b"] == []  # type: ignore[union-attr]
