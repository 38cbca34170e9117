"""The log of one agent process, over real HTTP on a real Valkey, mostly of an agent that failed to boot."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import redis
from fastapi import FastAPI

from orchestrator.api import log_stream
from orchestrator.api.app import create
from orchestrator.models import new_id
from orchestrator.reasons import because
from orchestrator.store import Store
from tests.integration.test_status import follow
from tests.support.api import ADMIN, is_problem, on_a_port, serve, settings, start
from tests.support.pool import assign, change, warm

TRACEBACK = ["Traceback (most recent call last):", "RuntimeError: cannot load model", "[agent exited with code 1]"]
REASON = because("boot_error", cause="crashed", exitCode=1, detail="RuntimeError: cannot load model")
CAUSE = "boot_error: exited with code 1: RuntimeError: cannot load model"


@pytest.fixture
async def app(store: Store, valkey_url: str) -> FastAPI:
    return create(settings(valkey_url))


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(app) as client:
        client.headers.update(ADMIN)
        yield client


async def fail(store: Store, *lines: str, node: str = "n1") -> str:
    """Make the boot of a pool agent fail; returns its id."""
    await store.close_breaker()
    counts = await store.counts()
    await store.set_target(counts["pool"] + counts["booting"] + 1)
    (agent_id,) = await store.reserve_agents([new_id("prewarm")], node)
    await store.claim_agent(agent_id, node)
    await store.record_spawn(agent_id, 77, 5000, "boot", node)
    await store.append_logs(agent_id, lines or TRACEBACK, 500, 7)
    await store.record_exit(agent_id, REASON, 1)
    return agent_id


async def failures(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await http.get("/api/status")).json()["failures"]
    return found


async def test_the_log_of_a_failed_boot_has_its_traceback(http: httpx.AsyncClient, store: Store) -> None:
    agent_id = await fail(store)
    found = (await http.get(f"/api/agents/{agent_id}/logs")).json()
    assert found == {
        "success": True,
        "agentId": agent_id,
        "agent": {
            "agentId": agent_id, "pid": 77, "node": "n1", "status": "exited", "cause": CAUSE, "exitCode": 1,
            "causeCode": REASON.code, "causeParams": {**REASON.params, "agentId": agent_id},
        },
        "logs": TRACEBACK,
        "complete": False,
    }  # fmt: skip
    await store.close_log(agent_id)
    assert (await http.get(f"/api/agents/{agent_id}/logs")).json()["complete"] is True
    assert (await http.get(f"/api/agents/{agent_id}/logs?limit=2")).json()["logs"] == TRACEBACK[-2:]
    for limit in (0, -1, 10_001, "many"):
        is_problem(await http.get(f"/api/agents/{agent_id}/logs?limit={limit}"), 422, "malformed_request")


async def test_logs_of_warm_assigned_and_exited_agents_can_be_read(
    http: httpx.AsyncClient, store: Store, valkey_url: str
) -> None:
    serving, warmed = await warm(store, valkey_url, 2)
    await store.append_logs(warmed, ["I am warm"], 500)
    found = (await http.get(f"/api/agents/{warmed}/logs")).json()
    assert (found["agent"]["status"], found["logs"]) == ("ready", ["I am warm"])
    begun = await assign(store, "ada")
    assert begun.agent_id in {serving, warmed}
    found = (await http.get(f"/api/agents/{begun.agent_id}/logs")).json()
    assert found["agent"]["status"] == "assigned"


async def test_an_agent_that_printed_nothing_still_has_its_cause(http: httpx.AsyncClient, store: Store) -> None:
    await store.set_target(1)
    (agent_id,) = await store.reserve_agents([new_id("prewarm")], "n1")
    await store.record_exit(agent_id, because("not_spawned", detail="the agent host is away"))
    found = (await http.get(f"/api/agents/{agent_id}/logs")).json()
    assert (found["logs"], found["agent"]["cause"]) == ([], "not spawned: the agent host is away")


async def test_a_log_is_readable_after_its_agents_record_is_gone(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis
) -> None:
    """The last lines of an agent that is killed late may arrive after its record is gone."""
    agent_id = await fail(store)
    raw.delete(f"agent:{agent_id}")
    found = (await http.get(f"/api/agents/{agent_id}/logs")).json()
    assert found == {"success": True, "agentId": agent_id, "logs": TRACEBACK, "complete": False}


@pytest.mark.parametrize("suffix", ["logs", "logs/events"])
async def test_logs_of_an_unknown_agent_are_not_found(http: httpx.AsyncClient, suffix: str) -> None:
    unknown = new_id("prewarm")
    problem = is_problem(await http.get(f"/api/agents/{unknown}/{suffix}"), 404, "not_found")
    assert unknown in problem["detail"]
    for bad in ("x", "prewarm_" + "g" * 32, "prewarm_" + "0" * 31, "%00", "..%2f..%2fetc"):
        is_problem(await http.get(f"/api/agents/{bad}/{suffix}"), 404, "not_found")


@pytest.mark.parametrize("suffix", ["logs", "logs/events"])
async def test_agent_logs_require_the_admin_token(store: Store, valkey_url: str, suffix: str) -> None:
    agent_id = await fail(store)
    key = "key-of-a-backend-1234567890123456"
    for changes in ({}, {"api_keys": key}):
        app = create(settings(valkey_url, **changes))
        async with serve(app) as http:
            secret = app.state.services.access.client_secret(agent_id)
            path = f"/api/agents/{agent_id}/{suffix}"
            is_problem(await http.get(path), 401, "unauthorized")
            is_problem(await http.get(path, headers={"Authorization": "Bearer wrong"}), 401, "unauthorized")
            for shown in (key, secret) if changes else ():
                answer = await http.get(path, headers={"Authorization": f"Bearer {shown}"})
                is_problem(answer, 403, "forbidden")


async def test_a_log_is_pushed_as_it_is_written(
    app: FastAPI, store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "LAST_WORDS_SECONDS", 0.2)
    async with on_a_port(app) as http:
        http.headers.update(ADMIN)
        await store.set_target(1)
        (agent_id,) = await store.reserve_agents([new_id("prewarm")], "n1")
        await store.append_logs(agent_id, ["loading"], 500)
        path = f"/api/agents/{agent_id}/logs/events"
        async with follow(http, path) as events:
            _, told, place = await events.next("lines")
            assert told == {"agentId": agent_id, "lines": ["loading"], "missed": 0}
            await store.append_logs(agent_id, ["RuntimeError"], 500)
            await store.record_exit(agent_id, REASON, 1)
            assert (await events.next("lines", "end"))[1]["lines"] == ["RuntimeError"]
            assert (await events.next("lines", "end"))[0] == "end"
            await events.over()
        async with follow(http, path, **{"Last-Event-ID": place}) as events:
            assert (await events.next("lines"))[1]["lines"] == ["RuntimeError"]


# Retention: time and size


async def test_a_log_is_kept_as_long_as_its_failure_is_listed(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis
) -> None:
    await change(store, session_keep_count=3)
    ids = []
    for _ in range(6):
        ids.append(await fail(store))
        await store.close_log(ids[-1])
    listed = [failure["agentId"] for failure in await failures(http)]
    assert listed == ids[:2:-1], "the newest three"
    for agent_id in ids:
        answer = await http.get(f"/api/agents/{agent_id}/logs")
        assert (answer.status_code == 200) == (agent_id in listed)
        for suffix in ("", ":count", ":bytes", ":offset", ":closed"):
            assert raw.exists(f"agent:{agent_id}:logs{suffix}") == (agent_id in listed)
    for agent_id in listed:
        kept = raw.ttl(f"agent:{agent_id}")
        assert 0 < kept <= 3600
        assert kept <= raw.ttl(f"agent:{agent_id}:logs") <= 3600
    raw.delete(f"agent:{listed[0]}")  # as after its retention time
    assert [failure["agentId"] for failure in await failures(http)] == listed[1:]


async def test_log_lines_shipped_after_the_record_is_gone_expire(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis
) -> None:
    """An agent that was too slow is recorded as gone, then killed, and then the rest of its log file is shipped."""
    await change(store, session_keep_count=1)
    agent_id = await fail(store)
    await fail(store)
    assert not raw.exists(f"agent:{agent_id}")
    await store.append_logs(agent_id, ["killed"], 500, 9)
    for suffix in ("", ":count", ":bytes", ":offset"):
        assert 0 < raw.ttl(f"agent:{agent_id}:logs{suffix}") <= 3600


# Reports of the log


async def test_health_names_the_command_for_the_log_of_a_failed_boot(http: httpx.AsyncClient, store: Store) -> None:
    agent_id = await fail(store)
    health = (await http.get("/api/health")).json()
    assert f"the last agent did not boot: {CAUSE}; see: orchestrator logs {agent_id}" in health["warnings"]
    assert health["breaker"]["agentId"] == agent_id
    await store.close_breaker()
    health = (await http.get("/api/health")).json()
    assert agent_id not in str(health)


async def test_a_successful_boot_clears_the_failed_agent(
    http: httpx.AsyncClient, store: Store, valkey_url: str
) -> None:
    agent_id = await fail(store)
    await store.close_breaker()
    await warm(store, valkey_url, 1)
    assert agent_id not in str((await http.get("/api/health")).json())


async def test_a_session_names_the_agents_whose_boots_failed(http: httpx.AsyncClient, store: Store) -> None:
    session_id = (await start(http, "ada")).json()["sessionId"]
    await store.record_exit(session_id, REASON, 1)
    second = new_id("prewarm")
    assert await store.announce_replacement(session_id, second) == "announced"
    other = because("boot_error", cause="crashed", exitCode=2, detail="no key", agentId=second)
    await store.record_exit(second, other, 2)
    await store.end_session(session_id, "error", other.of(attempts=2))
    events = (await http.get(f"/api/session/{session_id}")).json()["events"]
    told = [(event["state"], event["failedAgentId"]) for event in events if "failedAgentId" in event]
    assert told == [("boot_retried", session_id), ("error", second)]


async def test_a_session_that_ends_for_another_reason_names_no_agent(http: httpx.AsyncClient, store: Store) -> None:
    await fail(store)
    await store.close_breaker()
    await fail(store)
    session_id = (await start(http, "ada")).json()["sessionId"]
    await http.post("/api/session/stop", json={"sessionId": session_id})
    assert "failedAgentId" not in str((await http.get(f"/api/session/{session_id}")).json())


async def test_an_open_breaker_names_the_failed_agent_to_waiting_sessions(
    http: httpx.AsyncClient, store: Store
) -> None:
    waiting = (await start(http, "ada")).json()["sessionId"]
    for _ in range(5):
        last = new_id("prewarm")
        if await store.announce_replacement(waiting, last) == "announced":
            await store.record_exit(last, REASON, 1)
    look = (await http.get(f"/api/session/{waiting}")).json()
    assert (look["status"], look["reason"]) == ("error", CAUSE)
    assert look["events"][-1]["failedAgentId"] == last
