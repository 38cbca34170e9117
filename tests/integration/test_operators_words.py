"""Internal texts reach the operator and never a caller: not in an answer, a header or a stream, whatever fails."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from orchestrator.api.app import create
from orchestrator.errors import OrchestratorError, StoreUnavailable
from orchestrator.models import new_id
from orchestrator.node.api_client import Api
from orchestrator.reasons import because, words
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.task_queue.app import Publisher
from tests.integration.test_api import agent_link
from tests.integration.test_strangers import every_route
from tests.support.api import ADMIN, is_problem, on_a_port, serve, settings, start
from tests.support.pool import warm

KEY = "first-key-of-16-and-more"
#: Text that must not reach a caller, and the operator's texts that contain it.
SECRET = "hunter2"
WEIGHTS = f"OSError: no weights at https://bot:{SECRET}@models.example/llama.gguf"
BOOT = f"boot_error: exited with code 1: {WEIGHTS}"
AWAY = f"LiveKit at ws://{SECRET}.internal:7880 does not answer"
LEFT = f"cannot reach postgresql://bot:{SECRET}@db.internal"
#: Further text that a caller must never read.
INSIDE = (SECRET, ".internal", "models.example", "Error:", "Errno", "127.0.0.1:2", "redis", "Redis", "Traceback")
#: Routes of static pages and documents, which are the same for everybody.
STATIC = ("/", "/favicon.svg", "/metrics", "/openapi.json", "/docs", "/redoc", "/status", "/docs/oauth2-redirect")


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"} if secret else {}


@asynccontextmanager
async def apis(url: str) -> AsyncIterator[dict[str, tuple[Any, httpx.AsyncClient]]]:
    """Serve an API with keys and an open one on the same Redis."""
    keyed, free = create(settings(url, api_keys=KEY)), create(settings(url))
    async with serve(keyed) as with_keys, serve(free) as without:
        yield {"keys": (keyed, with_keys), "open": (free, without)}


async def told(app: Any, http: httpx.AsyncClient, session: str, headers: dict[str, str]) -> str:
    """Return everything that a client receives: each route's answer with headers, and the beginning of streams."""
    found = []
    endless = not (await http.get(f"/api/session/{session}", headers=ADMIN)).json().get("reason")
    for method, path in sorted(set(every_route(app, session))):
        if path in STATIC or path.startswith(("/status", "/assets")):
            continue
        if path.endswith("/events") and (endless or headers == ADMIN):
            continue  # see test_the_event_stream_shows_callers_no_internal_text
        body = {"sessionId": session} if path.endswith(("/stop", "/token")) else {"userId": "eve"}
        if path.endswith("/stop") or (method == "POST" and headers == ADMIN):
            continue  # the operator only reads
        answer = await http.request(method, path, headers=headers, json=body if method == "POST" else None)
        found.append(f"{method} {path} {answer.status_code} {dict(answer.headers)} {answer.text}")
    return "\n".join(found)


async def nobody_reads(found: dict[str, tuple[Any, httpx.AsyncClient]], session: str, secret: str) -> str:
    """Assert that no caller gets internal text; return what the operator gets."""
    for name, (app, http) in found.items():
        for shown in ("", KEY, secret):
            text = await told(app, http, session, bearer(shown))
            assert SECRET not in (await http.get("/metrics", headers=bearer(shown))).text
            for inside in INSIDE:
                seen = text.replace('"redis":{', "")  # the health route's answer has a field of this name
                assert inside not in seen, f"{inside!r} with {shown!r} at {name}: {_around(seen, inside)}"
    return await told(*found["keys"], session, ADMIN)


def _around(text: str, what: str) -> str:
    at = text.index(what)
    return text[max(0, at - 400) : at + 200]


async def begun(found: dict[str, tuple[Any, httpx.AsyncClient]]) -> tuple[str, str]:
    body = (await start(found["keys"][1], f"user-{new_id('room')}", headers=bearer(KEY))).json()
    return body["sessionId"], body["clientSecret"]


async def test_callers_never_see_the_text_of_a_boot_error(
    store: Store, valkey_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with apis(valkey_url) as found:
        sessions = [await begun(found) for _ in range(5)]
        for session, _ in sessions:
            await store.append_logs(session, [f"OSError: {SECRET}"], 500)
            await store.record_exit(session, because("boot_error", cause="crashed", exitCode=1, detail=WEIGHTS), 1)
        session, secret = sessions[-1]
        operator = await nobody_reads(found, session, secret)
        assert operator.count(BOOT) > 3

        _, http = found["keys"]
        look = (await http.get(f"/api/session/{session}", headers=bearer(secret))).json()
        assert look["reason"] == "boot_error: The agent that was started for the call failed."
        assert look["events"][-1]["reason"] == look["reason"]
        # The caller reads what to do, and an id with which the operator finds the cause.
        answer = await start(http, "ada", headers=bearer(KEY))
        body = is_problem(answer, 503, "agents_do_not_boot")
        assert body["detail"] == "Agents do not start just now; try again later."
        assert body["requestId"] == answer.headers["X-Request-Id"]
        logged = [line for line in capsys.readouterr().err.splitlines() if body["requestId"] in line]
        assert any(BOOT.replace(SECRET, "(secret)") in line for line in logged), logged
        assert not any(SECRET in line for line in logged)
        whole = is_problem(await start(http, "ada", headers=ADMIN), 503, "agents_do_not_boot")
        assert BOOT in whole["detail"]
        health = (await http.get("/api/health", headers=bearer(KEY))).json()
        assert health["status"] == "degraded"
        assert "Agents do not start." in health["warnings"]
        assert health["breaker"]["cause"] is None
        assert BOOT in (await http.get("/api/health", headers=ADMIN)).text


async def test_callers_learn_only_that_livekit_is_unavailable(store: Store, valkey_url: str) -> None:
    await warm(store, valkey_url, 1)
    async with apis(valkey_url) as found:
        session, secret = await begun(found)
        await store.livekit_down(AWAY)
        assert AWAY in await nobody_reads(found, session, secret)
        answer = await start(found["open"][1], "grace")
        body = is_problem(answer, 503, "livekit_unavailable")
        assert body["detail"] == "The media server cannot be reached just now; try again shortly."


async def test_callers_get_only_the_code_of_an_agents_failure(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    first, second, third = await warm(store, valkey_url, 3)
    async with apis(valkey_url) as found:
        session, secret = await begun(found)
        serving = str(raw.hget(f"session:{session}", "agentId"))
        raw.delete(f"agent:{serving}:inbox")  # it has read its messages
        await store.append_logs(serving, [f"Traceback: {SECRET}"], 500)
        await store.record_exit(serving, because("agent_error", detail=f"RuntimeError: {LEFT}"), 1)
        assert LEFT in await nobody_reads(found, session, secret)
        _, http = found["keys"]
        look = (await http.get(f"/api/session/{session}", headers=bearer(KEY))).json()
        assert look["cause"] == "agent_error: The agent failed."
        # An agent's own text at the end of its session, and a reason that looks like one of ours.
        left = str(raw.hget(f"session:{session}", "agentId"))
        async with agent_link(valkey_url, left) as link:
            await link.ended(session, "ended", words(LEFT))
        assert LEFT in await nobody_reads(found, session, secret)
        assert left in {first, second, third}
        for text in (
            f"stopped by request {SECRET}",
            f"join_failed: {SECRET}",
            f"my_kind: {SECRET}",
            f"room closed ({SECRET})",
        ):
            # Reasons without a code, as the previous release wrote them, and with a code that is not in the table.
            for code in ("", SECRET):
                fields = {"reason": text, "reasonCode": code, "reasonParams": json.dumps({"detail": SECRET})}
                raw.hset(f"session:{session}", mapping=fields)
                raw.xadd(f"session:{session}:events", {"state": "ended", **fields, "later": SECRET})
            await nobody_reads(found, session, secret)
            is_problem(
                await http.post("/api/token", json={"sessionId": session}, headers=bearer(secret)), 409, "session_over"
            )


async def test_the_event_stream_shows_callers_no_internal_text(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await warm(store, valkey_url, 2)
    async with on_a_port(create(settings(valkey_url))) as http:
        body = (await start(http, "ada")).json()
        path, serving = f"/api/session/{body['sessionId']}/events", raw.hget(f"session:{body['sessionId']}", "agentId")

        async def read(headers: dict[str, str]) -> str:
            async with asyncio.timeout(60):
                return (await http.get(path, headers=headers)).text

        following = [asyncio.create_task(read(headers)) for headers in ({}, bearer(body["clientSecret"]), ADMIN)]
        await store.record_exit(str(serving), words(f"RuntimeError: {LEFT}"), 1)
        await store.end_session(body["sessionId"], "error", because("pipeline_failed", detail=LEFT))
        *callers, operator = await asyncio.gather(*following)
        for text in callers:
            assert not [inside for inside in INSIDE if inside in text], text
            assert "pipeline_failed: The agent could not hear, think or speak any more." in text
            assert "agent_lost: The agent was lost." in text
        assert f"pipeline_failed: {LEFT}" in operator


async def test_callers_never_see_the_text_of_an_outage_of_redis() -> None:
    url = f"redis://:{SECRET}@127.0.0.1:2/0"
    app, free = create(settings(url, api_keys=KEY)), create(settings(url))
    async with serve(app, configured=False) as http, serve(free, configured=False) as without:
        session = new_id("session")
        secret = app.state.services.access.client_secret(session)
        operator = await nobody_reads({"keys": (app, http), "open": (free, without)}, session, secret)
        assert "Redis does not answer" in operator
        body = is_problem(await start(http, "ada", headers=bearer(KEY)), 503, "store_unavailable")
        assert body["detail"] == "The service cannot answer this just now; try again shortly."
        for path in ("/readyz", "/api/health"):
            is_problem(await http.get(path, headers=bearer(KEY)), 503, "store_unavailable")
            assert "127.0.0.1:2" in is_problem(await http.get(path, headers=ADMIN), 503, "store_unavailable")["detail"]


async def test_callers_never_see_the_error_of_the_task_queue(
    store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StoreUnavailable(f"the task queue takes no task: {LEFT}", retry_after=1)

    monkeypatch.setattr(Publisher, "send", refuse)
    async with serve(create(settings(valkey_url))) as http:
        assert SECRET not in (await start(http, "ada")).text
        assert LEFT in is_problem(await start(http, "ada", headers=ADMIN), 503, "store_unavailable")["detail"]


async def test_callers_never_see_the_text_of_an_unexpected_error(
    store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError(LEFT)

    monkeypatch.setattr(Store, "reading", fail)
    async with serve(create(settings(valkey_url))) as http:
        for headers in ({}, bearer("wrong")):
            answer = await http.get("/readyz", headers=headers)
            body = is_problem(answer, 500, "internal_error")
            assert SECRET not in answer.text
            assert body["requestId"] == answer.headers["X-Request-Id"]
        assert LEFT in is_problem(await http.get("/readyz", headers=ADMIN), 500, "internal_error")["detail"]


async def test_a_public_route_cannot_be_used_to_guess_the_token(store: Store, valkey_url: str) -> None:
    """After too many wrong secrets an address always gets the same answer, even with the right secret."""
    async with serve(create(settings(valkey_url))) as http:
        for number in range(40):
            is_problem(await http.get("/readyz", headers=bearer(f"guess-{number}")), 503, "host_unavailable")
        body = is_problem(await http.get("/readyz", headers=ADMIN), 503, "host_unavailable")
        assert body["detail"] == "No agent can be started just now; try again shortly."
        is_problem(await http.get("/api/sessions", headers=ADMIN), 429, "too_many_attempts")


async def test_the_command_line_shows_internal_texts(store: Store, valkey_url: str, tmp_path: Path) -> None:
    config = settings(valkey_url, run_dir=tmp_path)
    await store.livekit_down(AWAY)
    async with on_a_port(create(config)) as http:

        def ask(asker: Settings) -> str:
            api = Api(asker, str(http.base_url))
            with api._client, pytest.raises(OrchestratorError) as refused:
                api.post("/api/session/start", {"userId": "ada"})
            return refused.value.detail

        assert AWAY in await asyncio.to_thread(ask, config)
        told = await asyncio.to_thread(ask, config.model_copy(update={"admin_token": None}))
        assert told == "The media server cannot be reached just now; try again shortly."


@pytest.mark.parametrize(
    ("who", "author"), [("secret", " of the caller"), (KEY, " of the backend"), ("admin", " of an operator"), ("", "")]
)
async def test_the_reason_states_which_credential_ended_the_session(
    store: Store, valkey_url: str, who: str, author: str
) -> None:
    keys = {"api_keys": KEY} if who == KEY else {}
    async with serve(create(settings(valkey_url, **keys))) as http:
        body = (await start(http, "ada", headers=bearer(who if who == KEY else ""))).json()
        headers = {"secret": bearer(body["clientSecret"]), "admin": ADMIN}.get(who, bearer(who))
        for _ in range(2):  # a second stop has no effect
            await http.post("/api/session/stop", json={"sessionId": body["sessionId"]}, headers=headers)
            headers = ADMIN
        mine = bearer(body["clientSecret"])
        look = (await http.get(f"/api/session/{body['sessionId']}", headers=mine)).json()
        assert (look["status"], look["reason"]) == ("ended", f"stopped by request{author}")


async def test_a_start_reports_an_existing_session(store: Store, valkey_url: str) -> None:
    async with serve(create(settings(valkey_url, api_keys=KEY))) as http:
        key = bearer(KEY) | {"Idempotency-Key": "one-press-of-the-button"}
        first, repeated = [(await start(http, "ada", headers=key)).json() for _ in range(2)]
        other = (await start(http, "ada", headers=bearer(KEY))).json()
        assert first["sessionId"] == repeated["sessionId"] == other["sessionId"]
        assert "existing" not in first
        assert "existing" not in repeated
        assert other["existing"] is True
