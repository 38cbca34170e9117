"""The state of the system: all routes use the same reading, which takes a constant number of round trips."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import redis
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families as parse

from orchestrator.api.app import create
from orchestrator.models import new_id
from orchestrator.reasons import because, words
from orchestrator.settings import Settings
from orchestrator.store import Store
from tests.support.agent_link import AgentLink
from tests.support.api import ADMIN, serve, settings
from tests.support.pool import POLICY, assign, warm
from tests.support.round_trips import round_trips

NODES = ("n1", "n2", "n3")


@pytest.fixture
async def app(store: Store, valkey_url: str) -> FastAPI:
    return create(settings(valkey_url, node_id="n1"))


@pytest.fixture
async def http(app: FastAPI, store: Store) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(app) as client:
        client.headers.update(ADMIN)
        yield client


async def beat(store: Store, node: str, **changes: Any) -> None:
    fields = {
        "host": 1, "pid": 4100, "bootId": "b", "hostWarning": "", "lastBeat": int(await store.now()), "canaryAge": 3,
        "version": "1", "life": node, "twin": 0, "sessions": 0, "restarted": "", "strangers": "",
        "serves": Settings(_env_file=None).serves,  # type: ignore[call-arg]
    }  # fmt: skip
    await store.beat_node(node, fields | changes, 60)


async def busy(store: Store, raw: redis.Redis, url: str) -> None:
    """Create several nodes, agents and sessions in all states, failures, and a broken record."""
    for node in NODES:
        await beat(store, node)
        await warm(store, url, 3, node)
    await beat(store, "n2", host=0, sessions=4, spareBytes=1 << 30)
    await store.set_target(4)
    sessions = [await assign(store, f"user-{number}") for number in range(5)]
    for started in sessions[:3]:
        link = AgentLink(url, started.agent_id)
        await link.joined()
        await link.presence(started.session_id, present=True)
        await link.close()
    await store.end_session(sessions[0].session_id, "ended", words("enough"))
    await store.end_session(sessions[1].session_id, "error", because("killed", signal=9).within("agent_lost"))
    await store.configure(POLICY | {"max_sessions": 3}, 4)
    await assign(store, "waits-in-line")
    await store.drain_node("n3", 600)
    await store.record_exit(sessions[4].agent_id, because("killed", signal=9), signal=9)
    (booting,) = await store.reserve_agents([new_id("prewarm")], "n1") or [""]
    if booting:
        await store.claim_agent(booting, "n1")
    await store.livekit_down("LiveKit does not answer", 60)
    raw.set("pool:memory_low", "200 MiB are left")
    raw.hset("beat:ticks", mapping={"beat": int(await store.now()), "refill": 1})
    raw.rpush("celery", "task", "task")
    raw.rpush("node.n1", "task")


def without_nulls(value: Any) -> Any:
    """Return JSON without null fields, because the status page's JSON omits them."""
    if not isinstance(value, dict):
        return value
    return {name: without_nulls(each) for name, each in value.items() if each is not None}


async def cost(http: httpx.AsyncClient, path: str) -> int:
    with round_trips() as counts:
        answer = await http.get(path)
    assert answer.status_code in {200, 503}, answer.text
    return counts[0]


async def test_routes_take_a_constant_number_of_round_trips(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    most = dict.fromkeys(("/metrics", "/api/health", "/readyz", "/api/nodes", "/api/nodes/n1"), 3) | {"/api/status": 5}
    await beat(store, "n1")
    await http.get("/metrics")  # opens connections and loads the script
    quiet = {path: await cost(http, path) for path in most}
    assert quiet == most | {"/api/status": 4}, "no session records are read"
    await busy(store, raw, valkey_url)
    assert {path: await cost(http, path) for path in most} == most


async def test_lost_scripts_cost_at_most_three_more_round_trips(store: Store, raw: redis.Redis) -> None:
    await store.reading()
    raw.script_flush()
    with round_trips() as counts:
        assert (await store.reading()).max_sessions == POLICY["max_sessions"]
    assert counts[0] <= 3 + 3, "the script is called, loaded, and called again"
    with round_trips() as counts:
        await store.reading()
    assert counts[0] == 3


async def test_metrics_health_and_status_agree(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await busy(store, raw, valkey_url)
    metrics = {
        (sample.name.removeprefix("orchestrator_"), *sample.labels.values()): sample.value
        for family in parse((await http.get("/metrics")).text)
        for sample in family.samples
    }
    health = (await http.get("/api/health")).json()
    status = (await http.get("/api/status")).json()
    nodes = {node["node"]: node for node in (await http.get("/api/nodes")).json()["nodes"]}
    counts = health["sessions"]

    assert status["health"]["sessions"] == counts == (await store.counts()) | {"max": metrics["sessions_limit",]}
    assert counts["active"] >= 1
    assert counts["queued"] == 1
    for state in ("queued", "starting", "ready", "active"):
        assert metrics["sessions", state] == counts[state]
        assert len([each for each in status["sessions"] if each["status"] == state]) == counts[state], state
    living = sum(value for (name, *_), value in metrics.items() if name == "agents")
    assert living == counts["agents"] == len(status["agents"]) == sum(node["agents"] for node in nodes.values())
    for state in ("starting", "ready", "assigned", "running", "stopping"):
        assert metrics["agents", state] == len([each for each in status["agents"] if each["status"] == state]), state
    assert metrics["pool_agents",] == counts["pool"] == sum(node["warm"] for node in nodes.values())
    assert metrics["pool_target",] == counts["target"] == 4
    for name in ("nodes", "breaker", "livekit", "celery", "stats"):
        assert without_nulls(health[name]) == without_nulls(status["health"][name]), name
    assert set(nodes) == set(health["nodes"]) == set(NODES)
    for name, node in nodes.items():
        assert metrics["node_host_up", name] == node["host"] == health["nodes"][name]["host"]
        assert metrics["node_draining", name] == node["draining"] == health["nodes"][name]["draining"]
        assert metrics["node_warm_agents", name] == node["warm"]
        assert metrics["node_canary_age_seconds", name] == health["nodes"][name]["canaryAge"] == 3
    assert metrics["livekit_up",] == health["livekit"]["ok"] == status["health"]["livekit"]["ok"] is False
    assert metrics["breaker_boot_failures",] == health["breaker"]["failures"]
    assert metrics["celery_queue_length", "celery"] == health["celery"]["queue"] == 2
    assert metrics["celery_queue_length", "node.n1"] == 1
    assert metrics["memory_low",] == 1
    assert any("200 MiB are left" in warning for warning in health["warnings"])
    assert sorted(health["warnings"]) == sorted(status["health"]["warnings"])


async def test_answers_of_the_api_are_typed(http: httpx.AsyncClient, store: Store) -> None:
    await beat(store, "n1", sessions=4, spareBytes=1 << 30, lastBeat=1767268800)
    await store.record_registration(
        "n1.7", {"node": "n1", "agentName": "voice-agent", "registered": 1, "since": 1767268790, "workerId": "AW_1",
                 "jobs": 2, "full": "", "error": ""}, 60,
    )  # fmt: skip
    found = (await http.get("/api/health")).json()
    assert found["nodes"]["n1"] == {
        "host": True, "draining": False, "lastBeat": 1767268800, "pid": 4100, "bootId": "b", "hostWarning": "",
        "canaryAge": 3, "version": "1", "life": "n1", "twin": False, "sessions": 4, "spareBytes": 1 << 30,
        "goodbyeMs": None, "restarted": "", "strangers": "",
        "serves": found["nodes"]["n1"]["serves"],
    }  # fmt: skip
    assert found["nodes"]["n1"]["serves"]["AGENT_NAME"] == "voice-agent"
    assert found["doors"]["n1.7"] == {
        "node": "n1", "agentName": "voice-agent", "registered": True, "since": 1767268790, "workerId": "AW_1",
        "jobs": 2, "full": "", "error": "",
    }  # fmt: skip
    plain = (await http.get("/api/health", headers={"Authorization": ""})).json()
    assert plain["nodes"] == {"n1": {"host": True, "draining": False, "lastBeat": 1767268800}}
    assert plain["doors"] == {}


async def test_an_unreadable_record_fails_no_route(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    (whole, broken) = await warm(store, valkey_url, 2)
    raw.hset(f"agent:{broken}", "state", "no state")
    raw.hset("node:n1", mapping={"host": 1, "serves": "no json"})
    raw.sadd("nodes", "n1", "n2")
    for path in ("/metrics", "/api/health", "/api/status", "/api/sessions", "/api/nodes"):
        assert (await http.get(path)).status_code == 200, path
    assert [agent["agentId"] for agent in (await http.get("/api/status")).json()["agents"]] == [whole]
    assert [node["node"] for node in (await http.get("/api/nodes")).json()["nodes"]] == ["n1"]


async def test_the_records_of_dead_api_processes_are_forgotten(store: Store, raw: redis.Redis) -> None:
    await store.record_registration("alive", {"node": "n1"}, 60)
    raw.sadd("doors", "dead")
    assert set((await store.reading()).registrations) == {"alive"}
    await store.trim()
    assert raw.smembers("doors") == {"alive"}
