"""The HTTP contract, in process on a real Valkey: bodies, errors, limits, examples."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from orchestrator.api.app import create
from orchestrator.models import new_id
from orchestrator.reasons import because, words
from orchestrator.store import Store
from tests.support.agent_link import AgentLink
from tests.support.api import ADMIN, is_problem, serve, settings, start
from tests.support.pool import fill, warm
from tests.support.proxy import FaultProxy


@pytest.fixture
async def http(store: Store, valkey_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(create(settings(valkey_url))) as client:
        yield client


@pytest.fixture
async def small(store: Store, valkey_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """An API with at most two sessions and a queue of two."""
    async with serve(create(settings(valkey_url, max_sessions=2, queue_limit=2))) as client:
        yield client


@asynccontextmanager
async def agent_link(url: str, agent_id: str) -> AsyncIterator[AgentLink]:
    link = AgentLink(url, agent_id)
    try:
        yield link
    finally:
        await link.close()


async def test_hit_and_miss_answer_as_documented(http: httpx.AsyncClient, store: Store, valkey_url: str) -> None:
    (agent_id,) = await warm(store, valkey_url, 1)
    hit = await start(http, "ada")
    assert hit.status_code == 200
    body = hit.json()
    assert body.pop("latency").endswith("ms")
    assert body.pop("clientSecret").startswith("cs_")
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
    assert (look["status"], look["position"], look["prewarmed"]) == ("starting", 1, False)
    assert look["estimatedWait"] == body["estimatedWait"]
    assert look["estimatedWaitSeconds"] == body["estimatedWaitSeconds"] >= 0
    look = (await http.get(f"/api/session/{agent_id}")).json()
    assert look["agentPid"] == 1000
    assert look["roomName"].startswith("room_")
    assert look["createdAt"].endswith("Z")
    assert look["startupTime"] >= 0


@pytest.mark.thorough
async def test_a_start_checks_the_agents_process_before_it_answers(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    """The only warm agent has died and its death is not recorded yet: no caller gets `ready`."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    (agent_id,) = await warm(store, valkey_url, 1, node="api-test")
    raw.hset(f"agent:{agent_id}", "pid", gone.pid)
    answer = await start(http, "ada")
    assert (answer.status_code, answer.json()["status"]) == (202, "starting")
    assert raw.hget(f"agent:{agent_id}", "cause") == "found dead at assignment"
    (agent_id,) = await warm(store, valkey_url, 1, node="api-test")
    raw.hset(f"agent:{agent_id}", mapping={"pid": os.getpid(), "startTicks": 1})
    assert (await start(http, "grace")).json()["status"] == "starting", "another process has the pid now"


@pytest.mark.thorough
async def test_dead_warm_agents_cost_no_session(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    """One cause may have killed all five agents, and none of the deaths is recorded yet."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead = await warm(store, valkey_url, 5, node="api-test")
    for agent_id in dead:
        raw.hset(f"agent:{agent_id}", "pid", gone.pid)
    answer = await start(http, "ada")
    assert (answer.status_code, answer.json()["status"]) == (202, "starting")
    assert {raw.hget(f"agent:{agent_id}", "cause") for agent_id in dead} == {"found dead at assignment"}
    (living,) = await warm(store, valkey_url, 1, node="api-test")
    found = raw.hgetall(f"session:{answer.json()['sessionId']}")
    assert (found["status"], found["agentId"]) == ("ready", living)
    assert "replacements" not in found, "no agent that served the session has failed"


async def test_a_miss_queues_one_task_of_its_name(http: httpx.AsyncClient, raw: redis.Redis) -> None:
    session_id = (await start(http, "ada")).json()["sessionId"]
    queued = raw.lrange("celery", 0, -1)
    assert sum("orchestrator.spawn_agent" in task and session_id in task for task in queued) == 1
    assert not [task for task in queued if "s" * 40 in task or "a-token-for-tests" in task]


async def test_starts_from_one_address_are_rate_limited(raw: redis.Redis, valkey_url: str) -> None:
    async with serve(create(settings(valkey_url, rate_limit="3/minute"))) as http:
        for user in ("ada", "grace", "joan"):
            assert (await start(http, user)).status_code == 202
        for forged in ({}, {"X-Forwarded-For": "1.2.3.4"}, {"X-Real-IP": "1.2.3.5"}):
            answer = await start(http, "ada", headers=forged)
            body = is_problem(answer, 429, "rate_limited")
            seconds = int(answer.headers["Retry-After"])
            assert seconds == body["retryAfter"] >= 1
            assert "More than 3 starts a minute" in body["detail"]
            assert answer.headers["RateLimit-Policy"] == '"start";q=3;w=60'
            assert answer.headers["RateLimit"] == f'"start";r=0;t={seconds}'


async def fill_house(http: httpx.AsyncClient) -> list[str]:
    answers = [await start(http, user) for user in ("a", "b")]
    assert [answer.json()["status"] for answer in answers] == ["starting", "starting"]
    return [answer.json()["sessionId"] for answer in answers]


async def test_a_start_at_capacity_is_queued(small: httpx.AsyncClient, raw: redis.Redis) -> None:
    await fill_house(small)
    third = await start(small, "c")
    assert third.status_code == 202
    body = third.json()
    assert body.pop("latency").endswith("ms")
    assert body.pop("clientSecret").startswith("cs_")
    session_id = body["sessionId"]
    assert body == {
        "success": True, "sessionId": session_id, "status": "queued", "prewarmed": False, "position": 1,
        "message": f"All sessions are taken: number 1 in line. Poll /api/session/{session_id}.",
    }, "no session has ended yet, so there is no estimate of the wait"  # fmt: skip
    assert not [task for task in raw.lrange("celery", 0, -1) if session_id in task], "no agent is booting for it yet"
    assert not {"estimatedWait", "estimatedWaitSeconds"} & (await small.get(f"/api/session/{session_id}")).json().keys()
    raw.hset("pool:stats", "session_ms_mean", 60_000)
    fourth = (await start(small, "d")).json()
    assert (fourth["status"], fourth["position"], fourth["estimatedWait"]) == ("queued", 2, "60s")
    assert fourth["estimatedWaitSeconds"] == 60.0
    look = (await small.get(f"/api/session/{session_id}")).json()
    assert (look["status"], look["position"], look["estimatedWait"]) == ("queued", 1, "30s")
    assert look["estimatedWaitSeconds"] == 30.0
    again = await start(small, "c", headers={"Authorization": f"Bearer {third.json()['clientSecret']}"})
    assert (again.status_code, again.json()["sessionId"], again.json()["position"]) == (202, session_id, 1)


async def test_the_mean_session_length_gives_the_estimated_wait(
    small: httpx.AsyncClient, store: Store, valkey_url: str
) -> None:
    await warm(store, valkey_url, 1)
    session_id = (await start(small, "a")).json()["sessionId"]
    await small.post("/api/session/stop", json={"sessionId": session_id})
    _, mean = await store.means()
    assert mean is not None
    await fill_house(small)
    queued = (await start(small, "c")).json()
    assert (queued["status"], queued["estimatedWait"]) == ("queued", f"{mean / 2:.2g}s")


async def test_a_start_is_refused_when_the_queue_is_full(small: httpx.AsyncClient, raw: redis.Redis) -> None:
    await fill_house(small)
    for user in ("c", "d"):
        assert (await start(small, user)).json()["status"] == "queued"
    answer = await start(small, "e", headers=ADMIN)
    body = is_problem(answer, 429, "at_capacity")
    assert int(answer.headers["Retry-After"]) == body["retryAfter"] == 5
    assert body["detail"] == "All 2 sessions are taken and 2 wait in line; try again later."
    assert raw.exists("session:user:e") == 0
    raw.hset("pool:stats", "session_ms_mean", 20_000)
    assert (await start(small, "e")).headers["Retry-After"] == "30", "the wait of position 3"
    assert "RateLimit" not in answer.headers


async def test_a_stop_cancels_a_queued_session(small: httpx.AsyncClient, raw: redis.Redis) -> None:
    first, _ = await fill_house(small)
    third, fourth = [(await start(small, user)).json()["sessionId"] for user in ("c", "d")]
    answer = (await small.post("/api/session/stop", json={"sessionId": third})).json()
    assert (answer["status"], answer["message"]) == ("ended", "The session is stopped.")
    look = (await small.get(f"/api/session/{third}")).json()
    assert (look["status"], look["reason"]) == ("ended", "stopped by request")
    assert "position" not in look
    assert (await small.get(f"/api/session/{fourth}")).json()["position"] == 1
    await small.post("/api/session/stop", json={"sessionId": first})
    assert raw.hget(f"session:{fourth}", "status") == "starting", "the free place goes to the next session in the queue"


async def test_fifty_requests_with_one_idempotency_key_are_one_start(http: httpx.AsyncClient, raw: redis.Redis) -> None:
    answers = await asyncio.gather(*(start(http, "ada", headers={"Idempotency-Key": "one"}) for _ in range(50)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(202, answers[0].content)}
    assert raw.zcard("sessions") == 1
    assert sum("orchestrator.spawn_agent" in task for task in raw.lrange("celery", 0, -1)) == 1
    session_id = answers[0].json()["sessionId"]
    await http.post("/api/session/stop", json={"sessionId": session_id})
    late = await start(http, "ada", headers={"Idempotency-Key": "one"})
    assert late.content == answers[0].content, "the answer is the same after the session's end"
    other = await start(http, "ada", headers={"Idempotency-Key": "two"})
    assert other.json()["sessionId"] != session_id


async def test_an_idempotency_key_is_valid_for_one_request_body(http: httpx.AsyncClient, raw: redis.Redis) -> None:
    key = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
    await start(http, "ada", headers=key)
    for body in ({"userId": "grace"}, {"userId": "ada", "metadata": {"name": "Ada"}}):
        is_problem(await http.post("/api/session/start", json=body, headers=key), 422, "idempotency_key_reused")
    assert raw.zcard("sessions") == 1


@pytest.mark.parametrize("key", ["k" * 256, "a\x01b", "tab\tbed", "\x7f", "caf\xa0"])
async def test_invalid_idempotency_keys_are_refused(http: httpx.AsyncClient, raw: redis.Redis, key: str) -> None:
    answer = await start(http, "ada", headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert "Idempotency-Key" in is_problem(answer, 422, "invalid_request")["detail"]
    assert raw.keys("session*") == []
    assert (await start(http, "ada", headers={"Idempotency-Key": "k" * 255})).status_code == 202


async def test_a_start_that_was_refused_may_be_sent_again(small: httpx.AsyncClient, raw: redis.Redis) -> None:
    raw.set("livekit:down", "gone")
    key = {"Idempotency-Key": "one"}
    assert (await start(small, "ada", headers=key)).status_code == 503
    raw.delete("livekit:down")
    assert (await start(small, "ada", headers=key)).status_code == 202


async def test_sessions_per_user_are_limited(raw: redis.Redis, valkey_url: str) -> None:
    async with serve(create(settings(valkey_url, sessions_per_user=2))) as http:
        first, second, third = [(await start(http, "ada", headers=ADMIN)).json()["sessionId"] for _ in range(3)]
        assert first != second == third, "a start beyond the limit gets the newest session"
        assert (await start(http, "grace")).json()["sessionId"] not in {first, second}
        await http.post("/api/session/stop", json={"sessionId": first})
        assert (await start(http, "ada")).json()["sessionId"] not in {first, second}


async def test_starts_are_refused_while_redis_is_not_set_up(raw: redis.Redis, valkey_url: str) -> None:
    async with serve(create(settings(valkey_url)), configured=False) as http:
        raw.sadd("nodes", "api-test")
        raw.hset("node:api-test", "host", 1)
        is_problem(await http.get("/readyz"), 503, "not_set_up")
        answer = await start(http, "ada")
        is_problem(answer, 503, "not_set_up")
        assert answer.headers["Retry-After"] == "2"
        assert raw.keys("session*") == []
        assert (await http.get("/api/health")).status_code == 200


CLOSED = {
    "success": True, "state": "closed", "failures": 0, "cause": None, "causeCode": None, "causeParams": None,
    "agentId": None, "retryIn": 0,
}  # fmt: skip


async def open_breaker(http: httpx.AsyncClient, store: Store) -> str:
    """Make five boots in a row fail; returns the last session that waited."""
    for number in range(5):
        session_id: str = (await start(http, f"user {number}")).json()["sessionId"]
        await store.record_exit(
            session_id, because("boot_error", cause="crashed", exitCode=1, detail="no such model"), 1
        )
    return session_id


async def test_failed_boots_open_the_breaker_and_refuse_starts(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    path = f"/api/session/{await open_breaker(http, store)}"
    waiting = (await http.get(path, headers=ADMIN)).json()
    assert waiting["status"] == "error", "a waiting session ends immediately"
    assert waiting["reason"] == "boot_error: exited with code 1: no such model"
    answer = await start(http, "ada", headers=ADMIN)
    body = is_problem(answer, 503, "agents_do_not_boot")
    assert 1 <= int(answer.headers["Retry-After"]) == body["retryAfter"] <= 60
    assert "no such model" in body["detail"]
    health = (await http.get("/api/health", headers=ADMIN)).json()
    breaker = health["breaker"]
    assert (breaker["state"], breaker["failures"]) == ("open", 5)
    assert breaker["cause"] == "boot_error: exited with code 1: no such model"
    assert 0 < breaker["retryIn"] <= 60
    assert any("the breaker is open after 5 failed boots" in warning for warning in health["warnings"])
    (agent_id,) = fill(raw, 1)
    warm_one = await start(http, "ada")
    assert (warm_one.status_code, warm_one.json()["sessionId"]) == (200, agent_id), "warm agents are still assigned"

    is_problem(await http.post("/api/breaker/close"), 401, "unauthorized")
    await beat(store)
    closed = (await http.post("/api/breaker/close", headers=ADMIN)).json()
    assert closed == CLOSED
    assert (await start(http, "grace")).status_code == 202
    assert raw.llen("pool:wake:api-test") == 1


async def test_three_consecutive_calls_with_failing_agents_cause_a_warning(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis
) -> None:
    raw.hset("pool:failing", mapping={"calls": 2, "cause": "pipeline_failed: the voice is out of credit (402)"})
    assert "stopped serving" not in str((await http.get("/api/health", headers=ADMIN)).json()["warnings"])
    raw.hincrby("pool:failing", "calls", 1)
    warnings = (await http.get("/api/health", headers=ADMIN)).json()["warnings"]
    assert (
        "agents stopped serving, though their processes live, in the last 3 calls in a row: "
        "pipeline_failed: the voice is out of credit (402)" in warnings
    )


async def beat(store: Store, node: str = "api-test") -> None:
    await store.beat_node(node, {"pid": 1, "host": 1, "lastBeat": 1, "canaryAge": 0}, 30)


async def test_a_draining_node_refuses_starts_and_keeps_its_sessions(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await beat(store)
    for agent_id in await warm(store, valkey_url, 2, node="api-test"):
        raw.hset(f"agent:{agent_id}", mapping={"pid": os.getpid(), "startTicks": 0})  # a start checks the process
    begun = (await start(http, "ada")).json()
    session_id, mine = begun["sessionId"], {"Authorization": f"Bearer {begun['clientSecret']}"}
    assert (await http.get("/readyz")).status_code == 200
    path = "/api/nodes/api-test"
    here = {
        "success": True, "node": "api-test", "draining": False, "sessions": 1, "agents": 2, "warm": 1, "most": None,
        "host": True, "short": None, "version": None,
    }  # fmt: skip
    found = (await http.get(path, headers=ADMIN)).json()
    assert found.pop("heard") > 0
    assert found == here
    for method, each in (("GET", path), ("POST", f"{path}/drain")):
        is_problem(await http.request(method, each), 401, "unauthorized")
        unknown = await http.request(method, each.replace("api-test", "elsewhere"), headers=ADMIN)
        assert "elsewhere" in is_problem(unknown, 404, "not_found")["detail"]
        bad = await http.request(method, each.replace("api-test", "a%20b"), headers=ADMIN)
        is_problem(bad, 422, "malformed_request")

    assert (await http.post(f"{path}/drain", headers=ADMIN)).json().items() >= (
        here | {"draining": True, "warm": 0}
    ).items()
    assert (await http.get(path, headers=ADMIN)).json()["draining"] is True
    answer = await start(http, "grace")
    is_problem(answer, 503, "draining")
    assert answer.headers["Retry-After"] == "35"
    ready = await http.get("/readyz")
    is_problem(ready, 503, "draining")
    assert ready.headers["Retry-After"] == "35"
    assert (await start(http, "ada", headers=mine)).json()["sessionId"] == session_id, "a call goes on"
    health = (await http.get("/api/health", headers=ADMIN)).json()
    assert (health["sessions"]["pool"], health["sessions"]["ready"]) == (0, 1)
    found = dict(zip(health["warnings"], health["warningCodes"], strict=True))
    assert found["node api-test drains"] == {"code": "draining", "params": {"node": "api-test"}}
    callers = (await http.get("/api/health")).json()
    assert {"code": "draining", "params": {}} in callers["warningCodes"]
    await store.end_session(session_id, "ended", words("enough"))
    assert (await http.get(path, headers=ADMIN)).json()["sessions"] == 1, "its room is still open"
    await store.room_closed(session_id)
    assert (await http.get(path, headers=ADMIN)).json()["sessions"] == 0


async def test_other_nodes_serve_while_one_drains(http: httpx.AsyncClient, store: Store) -> None:
    await beat(store)
    await beat(store, "other")
    await http.post("/api/nodes/api-test/drain", headers=ADMIN)
    assert (await start(http, "ada")).status_code == 202
    is_problem(await http.get("/readyz"), 503, "draining")


async def test_starts_are_refused_while_livekit_is_unavailable(
    http: httpx.AsyncClient, store: Store, valkey_url: str
) -> None:
    (agent_id,) = await warm(store, valkey_url, 1)
    mine = {"Authorization": f"Bearer {(await start(http, 'ada')).json()['clientSecret']}"}
    await store.livekit_down("LiveKit at ws://127.0.0.1:1 does not answer")
    answer = await start(http, "grace", headers=ADMIN)
    body = is_problem(answer, 503, "livekit_unavailable")
    assert answer.headers["Retry-After"] == "5"
    assert "ws://127.0.0.1:1" in body["detail"]
    assert (await start(http, "ada", headers=mine)).json()["sessionId"] == agent_id, "a live session is kept"
    health = (await http.get("/api/health", headers=ADMIN)).json()
    assert health["livekit"] == {"ok": False, "trouble": "LiveKit at ws://127.0.0.1:1 does not answer"}
    await store.livekit_down(None)
    assert (await http.get("/api/health", headers=ADMIN)).json()["livekit"] == {"ok": True}
    assert (await start(http, "grace")).status_code == 202


async def test_a_reload_is_reported_for_each_node(http: httpx.AsyncClient, store: Store, raw: redis.Redis) -> None:
    is_problem(await http.post("/api/agents/reload"), 401, "unauthorized")
    is_problem(await http.post("/api/agents/reload", headers=ADMIN), 503, "host_unavailable")
    await beat(store)
    await beat(store, "other")
    begun = (await http.post("/api/agents/reload", headers=ADMIN)).json()
    reload_id = begun["reloadId"]
    path = f"/api/agents/reload/{reload_id}"
    assert begun["nodes"] == {"api-test": "waiting", "other": "waiting"}
    assert (begun["done"], begun["message"]) == (False, "The agents' code is being loaded.")
    for node in ("api-test", "other"):
        (task,) = raw.lrange(f"node.{node}", 0, -1)
        assert "orchestrator.reload" in task
        assert raw.llen("celery") == 0, "each node has its own queue for the task"

    async def look() -> dict[str, Any]:
        found: dict[str, Any] = (await http.get(path, headers=ADMIN)).json()
        return found

    await store.note_reload(reload_id, "api-test", "done")
    await store.note_reload(reload_id, "other", "running")
    found = await look()
    assert (found["nodes"], found["done"]) == ({"api-test": "done", "other": "running"}, False)
    await store.note_reload(reload_id, "other", "done")
    raw.sadd("pool:stale", new_id("prewarm"))
    assert ((await look())["stale"], (await look())["done"]) == (1, False), "an agent with older code is still running"
    raw.delete("pool:stale")
    found = await look()
    assert (found["stale"], found["done"], found["message"]) == (0, True, "New agent code is live.")
    await store.note_reload(reload_id, "other", "failed: SyntaxError: invalid syntax")
    found = await look()
    assert (found["done"], found["message"]) == (False, "other: failed: SyntaxError: invalid syntax")

    is_problem(await http.get(path), 401, "unauthorized")
    is_problem(await http.get("/api/agents/reload/" + "0" * 16, headers=ADMIN), 404, "not_found")
    is_problem(await http.get("/api/agents/reload/x", headers=ADMIN), 422, "malformed_request")
    await http.post("/api/agents/reload", headers=ADMIN)
    assert (await look())["message"] == found["message"], "the earlier reload can still be read"
    await store.forget_node("other", for_good=True)
    assert ((await look())["nodes"], (await look())["done"]) == ({"api-test": "done"}, True)
    assert 3500 < raw.ttl(f"reload:{reload_id}") <= 3600


async def test_a_session_contains_its_whole_history(http: httpx.AsyncClient, store: Store, valkey_url: str) -> None:
    first, second = await warm(store, valkey_url, 2)
    session_id = (await start(http, "ada")).json()["sessionId"]
    first, second = (first, second) if session_id == first else (second, first)
    async with agent_link(valkey_url, first) as agent:
        await agent.joined()
        await agent.presence(session_id, present=True)
        await agent.first_audio(session_id)
    await store.append_logs(first, [f"line {number}" for number in range(30)], 500)
    await store.record_exit(first, because("killed", signal=9), None, 9, 90_000)
    async with agent_link(valkey_url, second) as agent:
        await agent.joined()
        await agent.presence(session_id, present=True)

    look = (await http.get(f"/api/session/{session_id}", headers=ADMIN)).json()
    assert (look["status"], look["takeovers"], look["replacements"]) == ("active", 1, 0)
    assert (look["cause"], look["client"]) == ("killed by signal 9", "10.1.2.3")
    assert look["agentId"] == second
    assert "lastLogLines" not in look
    assert 0 <= look["timings"]["agentJoined"] <= look["timings"]["active"] <= look["timings"]["firstAudio"]

    await store.append_logs(second, ["the last line"], 500)
    for agent_id in (first, second):
        await store.close_log(agent_id)
    logs = f"/api/session/{session_id}/logs"
    assert (await http.get(logs, headers=ADMIN)).json()["complete"] is False, "there may be another takeover"
    await http.post("/api/session/stop", json={"sessionId": session_id})
    await store.record_exit(second, because("finished", exitCode=0), 0, None, 80_000)
    assert (await http.get(logs, headers=ADMIN)).json()["complete"] is True
    look = (await http.get(f"/api/session/{session_id}", headers=ADMIN)).json()
    assert (look["status"], look["reason"]) == ("ended", "stopped by request")
    assert [event["state"] for event in look["events"]] == [
        "ready", "agent_joined", "active", "first_audio", "agent_exited", "takeover", "starting", "ready",
        "agent_joined", "active", "ended", "agent_exited",
    ]  # fmt: skip
    times = [event["at"] for event in look["events"]]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] < 10, "in seconds since the session's start"
    takeover = look["events"][5]
    assert (takeover["agentId"], takeover["cause"]) == (first, "killed by signal 9")
    died, left = look["agents"]
    assert died == {
        "agentId": first, "pid": died["pid"], "node": "n1", "status": "exited", "cause": "killed by signal 9",
        "causeCode": "killed", "causeParams": {"signal": 9}, "signal": 9, "peakMemory": 90_000 * 1024,
    }  # fmt: skip
    assert (left["agentId"], left["exitCode"], left["peakMemory"]) == (second, 0, 80_000 * 1024)
    assert look["lastLogLines"] == [f"line {number}" for number in range(11, 30)] + ["the last line"]
    assert look["timings"]["ended"] >= look["timings"]["firstAudio"]


async def test_a_session_without_an_agent_shows_the_failed_boot(http: httpx.AsyncClient, store: Store) -> None:
    """No agent was ever bound to the session, so the agent that was started for it is shown."""
    session_id = (await start(http, "ada")).json()["sessionId"]
    await store.append_logs(session_id, ["ImportError: no module named nothing"], 500)
    await store.record_exit(
        session_id, because("boot_error", cause="crashed", exitCode=1, detail="ImportError"), 1, None, 9_000
    )
    await store.end_session(
        session_id, "error", because("boot_error", cause="crashed", exitCode=1, detail="ImportError")
    )
    look = (await http.get(f"/api/session/{session_id}", headers=ADMIN)).json()
    (agent,) = look["agents"]
    assert (agent["agentId"], agent["status"], agent["exitCode"]) == (session_id, "exited", 1)
    assert look["lastLogLines"] == ["ImportError: no module named nothing"]
    assert [event["state"] for event in look["events"]] == ["starting", "error"]


async def test_stop_is_idempotent_and_unknown_ids_are_404(http: httpx.AsyncClient, raw: redis.Redis) -> None:
    session_id = (await start(http, "ada")).json()["sessionId"]
    for message in ("The session is stopped.", "The session was over already (ended)."):
        answer = await http.post("/api/session/stop", json={"sessionId": session_id})
        assert answer.json() == {"success": True, "sessionId": session_id, "status": "ended", "message": message}
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
            await http.post("/api/agents/reload", headers=headers),
            await http.post("/api/breaker/close", headers=headers),
            await http.post("/api/nodes/api-test/drain", headers=headers),
        ):
            is_problem(answer, 401, "unauthorized")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert (await http.get("/api/sessions", headers=ADMIN)).json() == {"success": True, "sessions": [], "agents": []}
    resized = await http.post("/api/pool/resize", json={"size": 4}, headers=ADMIN)
    assert resized.json() == {"success": True, "target": 4, "pool": 0, "message": "The pool goes from 0 to 4."}
    for size in (-1, 501, "many"):
        is_problem(await http.post("/api/pool/resize", json={"size": size}, headers=ADMIN), 422, "malformed_request")


async def test_health_lists_the_faults_of_a_node(http: httpx.AsyncClient) -> None:
    assert (await http.get("/livez")).json() == {"success": True}
    problem = is_problem(await http.get("/readyz", headers=ADMIN), 503, "host_unavailable")
    assert "agent host" in problem["detail"]
    health = (await http.get("/api/health", headers=ADMIN)).json()
    assert health["status"] == "degraded"
    assert health["sessions"]["pool"] == 0
    assert "no Celery worker has reported" in health["warnings"][0]
    assert health["warningCodes"][0] == {"code": "no_nodes", "params": {}}


async def test_health_of_a_healthy_node_is_ok(small: httpx.AsyncClient, store: Store, valkey_url: str) -> None:
    await beat(store)
    await warm(store, valkey_url, 1, node="api-test")
    health = (await small.get("/api/health", headers=ADMIN)).json()
    assert (health["status"], health["warnings"]) == ("ok", [])
    assert health["breaker"] == CLOSED
    assert health["livekit"] == {"ok": True}
    assert health["sizing"] is None
    assert health["sessions"] == {
        "pool": 1, "booting": 0, "queued": 0, "starting": 0, "ready": 0, "active": 0, "agents": 1, "target": 1,
        "stale": 0, "max": 2,
    }  # fmt: skip
    await store.set_sizing(2, "1.00 starts/s times 0.05 s to boot, with a margin, need 2")
    for user in "abcd":
        await start(small, user)
    health = (await small.get("/api/health", headers=ADMIN)).json()
    assert health["sessions"]["queued"] == 2
    assert health["sizing"] == "1.00 starts/s times 0.05 s to boot, with a margin, need 2"


async def test_no_redis_is_503_and_no_hang() -> None:
    async with serve(create(settings("redis://127.0.0.1:1/0")), configured=False) as client:
        is_problem(await start(client, "ada"), 503, "store_unavailable")
        is_problem(await client.get("/api/health"), 503, "store_unavailable")
        is_problem(await client.get("/readyz"), 503, "store_unavailable")
        assert (await client.get("/livez")).status_code == 200


#: The expired redis-py timeouts of the request in this context.
WAITED: ContextVar[list[float]] = ContextVar("waited")


class NotedTimeout(asyncio.Timeout):  # type: ignore[misc]
    """A redis-py timeout that records its expiry: the sum is the time spent on Redis, however slow the machine is."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__(None if seconds is None else asyncio.get_running_loop().time() + seconds)
        self._seconds = seconds

    async def __aexit__(self, *error: Any) -> bool | None:
        try:
            return await super().__aexit__(*error)
        finally:
            if self.expired():
                WAITED.get([]).append(self._seconds or 0.0)


@pytest.mark.thorough
@pytest.mark.impatient
@pytest.mark.parametrize("established", [False, True], ids=["before it connects", "on its connections"])
async def test_a_black_holed_redis_is_answered_with_503_within_two_seconds(
    raw: redis.Redis, valkey_url: str, established: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis accepts connections and never answers, or stops answering on open ones."""
    monkeypatch.setattr("redis.asyncio.connection.async_timeout", NotedTimeout)
    address = urlsplit(valkey_url)
    assert address.hostname is not None
    assert address.port is not None
    with FaultProxy(address.hostname, address.port) as proxy:
        if not established:
            proxy.black_hole()
        app = create(settings(f"redis://127.0.0.1:{proxy.port}/0"))
        async with serve(app, configured=established) as http:
            if established:
                assert (await start(http, "grace")).status_code == 202
                proxy.black_hole()
            session_id = new_id("session")
            for ask in (
                lambda: start(http, "ada"),
                lambda: http.get(f"/api/session/{session_id}"),
                lambda: http.post("/api/session/stop", json={"sessionId": session_id}),
                lambda: http.get("/readyz"),
            ):
                WAITED.set(waited := [])
                answer = await ask()
                is_problem(answer, 503, "store_unavailable")
                assert answer.headers["Retry-After"]
                assert 0 < sum(waited) < 2, waited
            # A request that must first wait for one of the 64 connections waits twice.
            crowd = await asyncio.gather(*(http.get("/readyz") for _ in range(100)))
            assert {answer.status_code for answer in crowd} == {503}
            if established:
                proxy.pass_through()
                assert (await start(http, "ada")).status_code == 202, "the API works again immediately"


async def test_unknown_routes_and_methods_are_answered_with_problems(http: httpx.AsyncClient) -> None:
    is_problem(await http.get("/api/nothing"), 404, "not_found")
    is_problem(await http.get("/api/session/start/x"), 404, "not_found")
    is_problem(await http.put("/api/session/stop"), 405, "method_not_allowed")


async def test_large_bodies_are_refused_with_or_without_content_length(http: httpx.AsyncClient) -> None:
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
        media = next(iter(content.values()))
        name = media.get("schema", {}).get("$ref", "").rpartition("/")[2]
        return bool(media.get("example") or media.get("examples") or components.get(name, {}).get("examples"))

    routes = {
        f"{method} {path}": route for path, methods in schema["paths"].items() for method, route in methods.items()
    }
    assert len(routes) == 26
    for name, route in routes.items():
        assert route["summary"], name
        success = next(answer for status, answer in route["responses"].items() if status.startswith("20"))
        assert exemplified(success["content"]), f"{name}: no example of the answer"
        if "requestBody" in route:
            assert exemplified(route["requestBody"]["content"]), f"{name}: no example of the request"
    assert components["Problem"]["examples"]
