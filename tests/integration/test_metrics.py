"""The metrics, on a real Valkey, scraped as Prometheus does."""

import re
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import redis
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from orchestrator.api.app import create
from orchestrator.models import new_id
from orchestrator.operations.metrics import DEFINITIONS, HISTOGRAMS, PREFIX
from orchestrator.reasons import because
from orchestrator.store import Store
from orchestrator.store.histograms import BOUNDS, RECENT
from tests.integration.test_api import serve, settings, start
from tests.support.agent_link import AgentLink
from tests.support.guest import until
from tests.support.pool import assign, warm
from tests.support.redis_clock import redis_time, span


@pytest.fixture
async def http(store: Store, valkey_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(create(settings(valkey_url))) as client:
        yield client


async def scrape(http: httpx.AsyncClient) -> dict[str, float]:
    """Return every sample, by name and labels."""
    answer = await http.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        sample.name + "".join(f"|{name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }


async def measured(store: Store, series: str) -> tuple[int, float]:
    found = (await store.reading()).histograms[series]
    return found.count, found.sum_seconds


def back_in_time(raw: redis.Redis, key: str, field: str, ms: int) -> None:
    """Move a recorded time that far into the past."""
    raw.hincrby(key, field, -ms)


async def test_every_definition_is_exposed(http: httpx.AsyncClient, store: Store, raw: redis.Redis) -> None:
    raw.hset("beat:ticks", mapping={"beat": 1, "refill": 1})
    raw.hset("pool:stats", mapping={"webhook:participant_joined:recorded": 2, "look:no_room": 1})
    beat = int(redis_time(raw))
    await store.beat_node("n1", {"host": 1, "lastBeat": beat, "canaryAge": 3}, 30)
    found = await scrape(http)
    passed = redis_time(raw) - beat
    names = {name.partition("|")[0] for name in found}
    assert names >= {PREFIX + definition.name for definition in DEFINITIONS}
    assert names >= {f"{PREFIX}{name}_seconds_count" for name in HISTOGRAMS}
    assert found["orchestrator_node_host_up|node=n1"] == 1
    assert found["orchestrator_node_canary_age_seconds|node=n1"] == 3
    assert 0 <= found["orchestrator_node_heartbeat_age_seconds|node=n1"] <= passed
    assert found["orchestrator_celery_queue_length|queue=node.n1"] == 0
    assert found["orchestrator_beat_task_last_sent_timestamp_seconds|task=refill"] == 1
    assert found["orchestrator_livekit_webhooks_total|event=participant_joined|result=recorded"] == 2
    assert found["orchestrator_room_findings_total|finding=no_room"] == 1
    assert 0 < found["orchestrator_redis_latency_seconds"] < 2


async def test_the_openmetrics_format_is_served(http: httpx.AsyncClient) -> None:
    answer = await http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "orchestrator_starts" in {family.name for family in parse_openmetrics(answer.text)}


async def test_sessions_and_agents_are_counted_by_state(http: httpx.AsyncClient, store: Store, valkey_url: str) -> None:
    await warm(store, valkey_url, 2)
    await store.set_target(2)
    await start(http, "ada")
    await assign(store, "bob")
    await assign(store, "cyd")
    found = await scrape(http)
    states = {state: found[f"orchestrator_sessions|state={state}"] for state in ("queued", "starting", "ready")}
    assert states == {"queued": 0, "starting": 1, "ready": 2}
    assert found["orchestrator_agents|state=assigned"] == 2
    assert found["orchestrator_agents|state=starting"] == 1
    assert (found["orchestrator_pool_agents"], found["orchestrator_pool_target"]) == (0, 2)
    assert (found["orchestrator_starts_total|result=hit"], found["orchestrator_starts_total|result=miss"]) == (2, 1)


async def test_a_hit_is_measured_as_seen_by_its_caller(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await warm(store, valkey_url, 3)
    with span(raw) as calls:
        began = time.perf_counter()
        for user in ("a", "b", "c"):
            assert (await start(http, user)).json()["prewarmed"]
        took = time.perf_counter() - began

        async def counted() -> bool:
            return (await measured(store, "start:hit"))[0] == 3

        await until(counted, "three hits are counted")
    count, total = await measured(store, "start:hit")
    assert count == 3
    assert 0 < total <= took
    recent = await store.recent("start")
    assert sum(seconds for _, seconds in recent) == pytest.approx(total, abs=0.01)
    assert all(calls.has(at * 1000) for at, _ in recent)


async def test_pending_samples_are_written_at_close(raw: redis.Redis, store: Store, valkey_url: str) -> None:
    async with Store(valkey_url, name="other", keep_seconds=60) as other:
        other.observe("start:hit", 0.004)
    assert await measured(store, "start:hit") == (1, 0.004)
    assert raw.hgetall("histogram:start:hit") == {"5": "1", "us": "4000"}


async def test_each_step_of_a_call_is_measured_once(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    session = (await assign(store, "ada")).session_id
    assert await store.claim_agent(session, "n1") == ("claimed", "")
    link = AgentLink(valkey_url, session)
    back_in_time(raw, f"agent:{session}", "spawnedAt", 700)
    back_in_time(raw, f"session:{session}", "createdAt", 2_000)
    await link.ready(1)
    assert (await measured(store, "boot"))[1] == pytest.approx(0.7, abs=0.2)
    assert (await measured(store, "start:wait"))[1] == pytest.approx(2, abs=0.2)
    back_in_time(raw, f"agent:{session}", "assignedAt", 300)
    for _ in range(2):
        await link.joined()
        await link.presence(session, present=True)
    assert (await measured(store, "join"))[1] == pytest.approx(0.3, abs=0.2)
    back_in_time(raw, f"session:{session}", "activeAt", 1_500)
    for _ in range(2):
        await link.first_audio(session)
    assert (await measured(store, "first_audio"))[1] == pytest.approx(1.5, abs=0.2)
    await link.close()
    counts = {series: (await measured(store, series))[0] for series in BOUNDS}
    assert counts == {"start:hit": 0, "start:wait": 1, "boot": 1, "join": 1, "first_audio": 1, "takeover": 0}


async def test_a_takeover_lasts_until_the_next_agent_is_in_the_room(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    first, second, third = await warm(store, valkey_url, 3)
    session = (await assign(store, "ada")).session_id
    links = {agent: AgentLink(valkey_url, agent) for agent in (first, second, third)}
    served = [str(raw.hget(f"session:{session}", "agentId"))]
    await links[served[0]].joined()
    await links[served[0]].presence(session, present=True)
    await store.record_exit(served[0], because("killed", signal=9), None, 9)
    back_in_time(raw, f"session:{session}", "takeoverAt", 400)
    served.append(str(raw.hget(f"session:{session}", "agentId")))
    # The second dies before it joins: the user has had no agent since the first died.
    await store.record_exit(served[1], because("killed", signal=9), None, 9)
    served.append(str(raw.hget(f"session:{session}", "agentId")))
    await links[served[2]].joined()
    assert len(set(served)) == 3
    count, total = await measured(store, "takeover")
    assert count == 1
    assert total == pytest.approx(0.4, abs=0.2)
    assert raw.hget(f"session:{session}", "takeoverAt") is None
    for link in links.values():
        await link.close()


async def test_recent_samples_are_bounded(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    async with Store(valkey_url, name="other", keep_seconds=60) as other:
        for number in range(RECENT + 20):
            other.observe("start:hit", number / 1000)
    recent = await store.recent("start")
    assert len(recent) == RECENT
    assert recent[-1][1] == pytest.approx((RECENT + 19) / 1000), "the oldest sample comes first"


async def test_buckets_of_an_earlier_version_count_in_the_next_higher_one(store: Store, raw: redis.Redis) -> None:
    raw.hset("histogram:boot", mapping={"70": 2, "inf": 1, "us": 40_000_000})
    found = (await store.reading()).histograms["boot"]
    assert dict(found.buckets)[0.05] == 0
    assert dict(found.buckets)[0.1] == 2
    assert (found.count, found.sum_seconds) == (3, 40)


async def test_without_redis_the_scrape_fails(valkey_url: str) -> None:
    async with serve(create(settings("redis://127.0.0.1:1/0")), configured=False) as client:
        assert (await client.get("/metrics")).status_code == 503


def test_no_definition_breaks_prometheus_rules() -> None:
    for definition in DEFINITIONS:
        assert re.fullmatch(r"[a-z][a-z_]+", definition.name)
        assert definition.help.endswith(".")


async def test_ids_are_not_used_as_labels(http: httpx.AsyncClient, store: Store, valkey_url: str) -> None:
    """Each id would create a permanent time series."""
    (agent,) = await warm(store, valkey_url, 1)
    user: Any = new_id("session")
    await start(http, user)
    text = (await http.get("/metrics")).text
    assert agent not in text
    assert user not in text


async def test_credentials_for_starts_are_valid_for_scrapes(store: Store, valkey_url: str) -> None:
    key = "a-key-of-a-backend-that-is-long-enough"
    async with serve(create(settings(valkey_url, api_keys=key))) as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers={"Authorization": "Bearer other"})).status_code == 401
        for shown in (key, "a-token-for-tests"):
            assert (await client.get("/metrics", headers={"Authorization": f"Bearer {shown}"})).status_code == 200
