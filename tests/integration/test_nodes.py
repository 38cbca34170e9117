"""Several nodes on one store: pool shares, placement of starts, node limits, vanished nodes, releases."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
import redis

from orchestrator.errors import SchemaMismatch
from orchestrator.models import new_id
from orchestrator.reasons import because, words
from orchestrator.store import Store, schema
from tests.support.agent_link import AgentLink
from tests.support.pool import assign, change, warm
from tests.support.redis_clock import span


async def beat(store: Store, *nodes: str, seconds: int = 60, **fields: Any) -> None:
    """Record heartbeats of nodes that have an agent host."""
    for node in nodes:
        await store.beat_node(node, {"host": 1, "pid": 1, "lastBeat": 1, "life": node, **fields}, seconds)


async def reserved(store: Store, node: str, **options: str) -> int:
    return len(await store.reserve_agents([new_id("prewarm") for _ in range(10)], node, **options))


async def boot(store: Store, agent_id: str, node: str) -> None:
    assert await store.claim_agent(agent_id, node) == ("claimed", "")


async def test_each_node_boots_its_share(store: Store, raw: redis.Redis) -> None:
    await beat(store, "n1", "n2", "n3")
    raw.set("pool:proven", 1)
    await store.set_target(7)
    assert [await reserved(store, node) for node in ("n2", "n1", "n3", "n1")] == [2, 3, 2, 0]


async def test_a_node_that_cannot_boot_leaves_its_share_to_the_others(store: Store, raw: redis.Redis) -> None:
    await beat(store, "n1", "n2", "drains", "short")
    await beat(store, "hostless", host=0)
    await store.drain_node("drains", 60)
    await store.report_memory("short", "1 MiB is free", hold_seconds=60)
    raw.set("pool:proven", 1)
    await store.set_target(4)
    assert (await store.reading()).memory_shortage is None, "other nodes have memory"
    assert await reserved(store, "short", refused="1 MiB is free") == 0
    assert await reserved(store, "drains") == 0
    assert [await reserved(store, node) for node in ("n1", "n2")] == [2, 2]


async def test_each_node_keeps_at_least_one_warm_agent(store: Store, raw: redis.Redis) -> None:
    await beat(store, "n1", "n2", "n3")
    raw.set("pool:proven", 1)
    await store.set_target(1)
    assert [await reserved(store, node) for node in ("n1", "n2", "n3")] == [1, 1, 1]
    await store.set_target(0)
    assert await reserved(store, "n1") == 0


async def test_a_refill_wakes_the_others_for_their_shares(store: Store, raw: redis.Redis) -> None:
    await beat(store, "n1", "n2")
    raw.set("pool:proven", 1)
    await store.set_target(4)
    await reserved(store, "n1")
    assert await store.wait_wake("n2")
    assert raw.llen("pool:wake:n1") == 0


async def three_nodes(store: Store, raw: redis.Redis, url: str, each: int, **fields: Any) -> None:
    await beat(store, "n1", "n2", "n3", **fields)
    raw.set("pool:proven", 1)
    await store.set_target(3 * each)
    for node in ("n1", "n2", "n3"):
        ids = await store.reserve_agents([new_id("prewarm") for _ in range(each)], node)
        assert len(ids) == each
        for agent_id in ids:
            await boot(store, agent_id, node)
            link = AgentLink(url, agent_id)
            await link.ready(1)
            await link.close()


async def where(store: Store, user: str, **options: Any) -> str:
    """Start a session; returns the node of its agent, or the outcome if it gets no agent."""
    found = await assign(store, user, **options)
    return found.node or found.outcome


async def test_starts_go_to_the_node_with_the_smallest_load(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await three_nodes(store, raw, valkey_url, 3)
    first = Counter([await where(store, f"user{number}") for number in range(3)])
    assert first == Counter(n1=1, n2=1, n3=1)
    await store.drain_node("n2", 60)
    assert Counter([await where(store, f"later{number}") for number in range(4)]) == Counter(n1=2, n3=2)


async def test_a_node_with_a_late_heartbeat_is_chosen_last(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await three_nodes(store, raw, valkey_url, 2)
    await beat(store, "n1", seconds=5)
    assert {await where(store, f"user{number}") for number in range(4)} == {"n2", "n3"}
    assert await where(store, "nobody-else-is-warm") == "n1"


async def test_a_user_returns_to_the_previous_node(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await three_nodes(store, raw, valkey_url, 3)
    home = await where(store, "loyal", affinity=True)
    session_id = raw.get("session:user:loyal") or ""
    await store.end_session(session_id, "ended", words("enough"))
    assert await where(store, "somebody") != home or await where(store, "else") != home
    # The user's node now has at least as many calls as the others.
    for number in range(4):
        if raw.scard(f"node:{home}:busy") < 1:
            await where(store, f"fills{number}")
    assert await where(store, "loyal", affinity=True) == home


async def test_a_node_never_exceeds_its_session_limit(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await three_nodes(store, raw, valkey_url, 3, sessions=1)
    await beat(store, "n3", sessions=2)
    served = [await where(store, f"user{number}") for number in range(5)]
    assert Counter(served) == Counter(n1=1, n2=1, n3=2, queued=1)
    assert (await store.capacity("n1")).max_sessions == (await store.reading()).max_sessions == 4
    # Capacity that becomes free on a node goes to the queue immediately.
    ended = next(raw.smembers(f"node:{node}:busy") for node in ("n2",)).pop()
    await store.end_session(raw.hget(f"agent:{ended}", "sessionId") or "", "ended", words("enough"))
    assert raw.zcard("session:queued") == 0
    assert raw.scard("node:n2:busy") == 1


async def test_warm_agents_of_a_full_node_are_not_assigned(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await three_nodes(store, raw, valkey_url, 2, sessions=1)
    for node in ("n2", "n3"):
        for agent_id in raw.smembers(f"node:{node}:warm"):
            await store.record_exit(agent_id, because("killed", signal=9))
    assert await where(store, "first") == "n1"
    assert raw.scard("node:n1:warm") == 1
    assert await where(store, "second") == "starting", "the session waits for an agent of another node"


async def test_a_miss_boots_on_the_node_with_most_free_capacity(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await three_nodes(store, raw, valkey_url, 1)
    for number in range(3):
        await where(store, f"user{number}")
    await store.end_session(
        raw.hget(f"agent:{raw.smembers('node:n3:busy').pop()}", "sessionId") or "", "ended", words("x")
    )
    await store.set_target(0)
    missed = (await assign(store, "miss")).session_id
    assert await store.claim_agent(missed, "n1", anywhere=True) == ("elsewhere", "n3")
    assert await store.claim_agent(missed, "n3") == ("claimed", "")
    assert await store.claim_agent(missed, "n1") == ("taken", "")


async def test_calls_that_outlast_a_drain_continue_on_another_node(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await three_nodes(store, raw, valkey_url, 1)
    call = await assign(store, "ada")
    link = AgentLink(valkey_url, call.agent_id)
    await link.next_message()
    await link.joined()
    await link.presence(call.session_id, present=True)
    await link.turn(call.session_id, {"role": "user", "text": "My name is Ada."})
    await change(store, goodbye_seconds=0)
    await store.drain_node(call.node, 0)
    raw.zadd("deadlines", {f"drain|{call.node}": 0})
    await store.process_deadlines()
    found = raw.hgetall(f"session:{call.session_id}")
    assert found["node"] != call.node
    assert (found["status"], found.get("takeovers"), found["handovers"]) == ("ready", None, "1")
    assert (raw.hget("pool:stats", "total_handovers"), raw.hget("pool:stats", "total_takeovers")) == ("1", None)
    assert (await link.next_message() or {})["type"] == "stop"
    await link.close()
    heir = AgentLink(valkey_url, found["agentId"])
    told = await heir.next_message() or {}
    await heir.close()
    assert told["takeovers"] == 1, "the agent must say that the call continues"
    assert told["conversation"] == [{"role": "user", "text": "My name is Ada."}]
    assert not [event for event in await store.events(call.session_id, "0-0") if event["state"] == "goodbye"]


async def test_a_session_without_a_call_is_handed_over_as_a_new_one(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await three_nodes(store, raw, valkey_url, 1)
    call = await assign(store, "ada")
    await store.drain_node(call.node, 0)
    raw.zadd("deadlines", {f"drain|{call.node}": 0})
    await store.process_deadlines()
    found = raw.hgetall(f"session:{call.session_id}")
    assert (found["node"] != call.node, found.get("handovers"), found.get("replacements")) == (True, None, None)
    heir = AgentLink(valkey_url, found["agentId"])
    assert (await heir.next_message() or {})["takeovers"] == 0, "the agent greets the user"
    await heir.close()


async def test_without_another_node_a_drain_says_goodbye(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await beat(store, "n1")
    await warm(store, valkey_url, 2)
    call = await assign(store, "ada")
    await store.drain_node("n1", 0)
    raw.zadd("deadlines", {"drain|n1": 0})
    await store.process_deadlines()
    assert raw.hget(f"session:{call.session_id}", "agentId") == call.agent_id
    assert raw.zscore("deadlines", f"goodbye|{call.session_id}")


async def test_a_repeated_drain_may_shorten_its_deadline_and_never_extend_it(store: Store, raw: redis.Redis) -> None:
    """After an outage of Redis a node repeats its request to drain, with its remaining time."""
    await change(store, goodbye_seconds=3)
    await beat(store, "n1")

    def drain() -> tuple[float | None, str]:
        return raw.zscore("deadlines", "drain|n1"), str(raw.hget("node:n1", "goodbyeMs"))

    async def drains_within(seconds: float, left: int, goodbye: str) -> None:
        with span(raw) as call:
            await store.drain_node("n1", seconds)
        assert call.has(drain()[0], left)
        assert drain()[1] == goodbye

    await drains_within(30, 27_000, "3000")
    before = drain()
    await store.drain_node("n1", 60)
    assert drain() == before
    await drains_within(10, 7_000, "3000")
    await drains_within(2, 0, "2000")
    raw.zrem("deadlines", "drain|n1")
    await store.drain_node("n1", 1)
    assert raw.zscore("deadlines", "drain|n1") is None, "its calls have had their goodbye"


async def test_a_second_node_with_the_same_name_is_detected(store: Store) -> None:
    first, second = {"host": 1, "life": "one"}, {"host": 1, "life": "two"}
    assert (await store.beat_node("n1", first, 60)).previous_life is None
    assert (await store.beat_node("n1", first, 60)).previous_life == "one"
    assert (await store.beat_node("n1", second, 60)).previous_life == "one"
    assert (await store.beat_node("n1", first, 60)).previous_life == "two"


async def test_a_heartbeat_tells_the_node_whether_it_drains_and_whether_the_store_is_set_up(
    store: Store, raw: redis.Redis
) -> None:
    async def told() -> tuple[bool, bool]:
        _, draining, configured = await store.beat_node("n1", {"host": 1}, 60)
        return draining, configured

    assert await told() == (False, True)
    await store.drain_node("n1", 60)
    assert await told() == (True, True)
    await store.undrain_node("n1")
    assert await told() == (False, True)
    raw.delete("pool:target")
    assert await told() == (False, False), "Redis has lost the target"


async def test_a_vanished_node_is_removed(store: Store, raw: redis.Redis) -> None:
    await beat(store, "n1", "n2")
    raw.sadd("nodes", "gone")
    raw.rpush("node.gone", "a task that nobody will take")
    await store.drain_node("gone", 60)
    assert await store.vanished() == {"gone"}
    await store.forget_node("gone", for_good=True)
    assert raw.smembers("nodes") == {"n1", "n2"}
    assert not raw.exists("node.gone", "nodes:draining", "pool:wake:gone")
    assert raw.zscore("deadlines", "drain|gone") is None
    assert await store.vanished() == set()
    raw.rpush("node.n2", "a task")
    await store.forget_node("n2", for_good=False)
    assert raw.llen("node.n2") == 1, "its Celery worker may only be restarting"


async def test_warm_agents_of_a_silent_node_leave_the_pool(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await three_nodes(store, raw, valkey_url, 2)
    (first, second) = raw.smembers("node:n2:warm")
    for agent_id in (first, second):
        raw.hset(f"agent:{agent_id}", "lastBeat", 0)
        raw.zadd("deadlines", {f"beat|{agent_id}": 0})
    await store.process_deadlines()
    assert raw.scard("node:n2:warm") == 0
    assert raw.scard("pool:ready") == 4


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"version": str(schema.VERSION + 1), "readableBy": str(schema.VERSION + 1)}, "newer release"),
        ({"version": str(schema.OLDEST - 1), "readableBy": "0"}, "older release"),
    ],
)
async def test_a_redis_of_an_incompatible_release_is_not_changed(
    store: Store, raw: redis.Redis, found: dict[str, str], told: str
) -> None:
    raw.hset("schema", mapping=found)
    with pytest.raises(SchemaMismatch, match=told) as failure:
        await store.check_schema()
    assert "REDIS_URL" in failure.value.detail
    assert raw.hgetall("schema") == found


async def test_a_compatible_newer_schema_is_accepted(store: Store, raw: redis.Redis) -> None:
    newer = {"version": str(schema.VERSION + 1), "readableBy": str(schema.VERSION)}
    raw.hset("schema", mapping=newer)
    await store.check_schema()
    assert raw.hgetall("schema") == newer, "the newer release's record is kept"


async def test_the_first_node_records_its_schema(store: Store, raw: redis.Redis) -> None:
    await asyncio.gather(store.check_schema(), store.check_schema())
    assert raw.hgetall("schema") == {"version": str(schema.VERSION), "readableBy": str(schema.READABLE_BY)}


async def test_nodes_held_back_by_the_breaker_do_not_wake_each_other(store: Store, raw: redis.Redis) -> None:
    await beat(store, "n1", "n2")
    await store.set_target(4)
    raw.hset("pool:breaker", mapping={"failures": 1, "cause": "no", "nextAt": (raw.time()[0] + 60) * 1000})
    assert await reserved(store, "n1") == 0
    assert not raw.exists("pool:wake:n2")


async def test_a_node_with_failing_boots_gets_no_boots(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await beat(store, "good", "bad")
    raw.set("pool:proven", 1)
    await store.set_target(4)
    for _ in range(3):
        (agent_id, *_) = await store.reserve_agents([new_id("prewarm")], "bad")
        await boot(store, agent_id, "bad")
        await store.record_exit(agent_id, because("boot_error", cause="crashed", exitCode=1, detail="no such model"), 1)
    assert (await store.breaker()).state == "closed", "the other node's agents boot"
    assert await reserved(store, "bad") == 0
    assert await reserved(store, "good") == 4, "it gets the whole pool"
    raw.delete("node:bad:failures")  # as its expiry does after a minute
    assert await store.retire_surplus() == []


async def test_the_breaker_opens_when_boots_fail_on_every_node(store: Store, raw: redis.Redis) -> None:
    await beat(store, "n1", "n2")
    raw.set("pool:proven", 1)
    await store.set_target(4)
    for number in range(12):
        node = ("n1", "n2")[number % 2]
        raw.hdel("pool:breaker", "nextAt")
        for agent_id in await store.reserve_agents([new_id("prewarm")], node):
            await boot(store, agent_id, node)
            await store.record_exit(agent_id, because("boot_error", detail="no"), 1)
    assert (await store.breaker()).failures >= 5


async def test_a_call_is_not_handed_over_to_a_full_node(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await three_nodes(store, raw, valkey_url, 1, sessions=1)
    begun = [await assign(store, f"user{number}") for number in range(3)]
    await store.drain_node(begun[0].node, 0)
    raw.zadd("deadlines", {f"drain|{begun[0].node}": 0})
    await store.process_deadlines()
    assert raw.hget(f"session:{begun[0].session_id}", "agentId") == begun[0].agent_id
    assert raw.zscore("deadlines", f"goodbye|{begun[0].session_id}")


async def test_an_agent_booted_on_a_full_node_joins_the_pool(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await three_nodes(store, raw, valkey_url, 1, sessions=1)
    for number in range(2):
        await assign(store, f"user{number}")
    full = next(node for node in ("n1", "n2", "n3") if raw.scard(f"node:{node}:busy"))
    free = next(node for node in ("n1", "n2", "n3") if not raw.scard(f"node:{node}:busy"))
    (warm_one,) = raw.smembers(f"node:{free}:warm")
    await store.record_exit(warm_one, because("killed", signal=9))
    waits = await assign(store, "waits")
    assert waits.outcome == "starting"
    assert await store.claim_agent(waits.session_id, full) == ("claimed", "")
    link = AgentLink(valkey_url, waits.session_id)
    assert await link.ready(1) is None, "its node is full and another is not"
    await link.close()
    assert raw.scard(f"node:{full}:busy") == 1
    assert raw.hget(f"session:{waits.session_id}", "status") == "starting"
    # Capacity that becomes free on its node goes to waiting sessions.
    busy = raw.hget(f"agent:{raw.smembers(f'node:{full}:busy').pop()}", "sessionId") or ""
    await store.end_session(busy, "ended", words("enough"))
    assert raw.hget(f"session:{waits.session_id}", "node") == full


async def told_goodbye(store: Store, raw: redis.Redis, session_id: str, node: str) -> None:
    """Drain the only node until its calls get their goodbye."""
    await store.drain_node(node, 0)
    raw.zadd("deadlines", {f"drain|{node}": 0})
    await store.process_deadlines()
    assert raw.zscore("deadlines", f"goodbye|{session_id}")


async def test_repeated_drains_and_undrains_end_no_call(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await beat(store, "n1")
    await warm(store, valkey_url, 2)
    call = await assign(store, "ada")
    link = AgentLink(valkey_url, call.agent_id)
    await link.next_message()
    await link.joined()
    await link.presence(call.session_id, present=True)
    for _ in range(2):
        await told_goodbye(store, raw, call.session_id, "n1")
        message = await link.next_message() or {}
        assert message["type"] == "goodbye"
        assert await store.undrain_node("n1") == [call.session_id]
        assert raw.hget("node:n1", "goodbyeMs") is None
        kinds = {member.partition("|")[0] for member in raw.zrange("deadlines", 0, -1)}
        assert not kinds & {"goodbye", "drain"}
        await store.process_deadlines()
        found = await store.session(call.session_id)
        assert found is not None
        assert found.status == "active"
    await link.close()
    states = [event["state"] for event in await store.events(call.session_id, "0-0")]
    assert states[-4:] == ["goodbye", "goodbye_off"] * 2


async def test_an_unread_goodbye_is_withdrawn(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await beat(store, "n1")
    await warm(store, valkey_url, 1)
    call = await assign(store, "ada")
    await told_goodbye(store, raw, call.session_id, "n1")
    assert raw.llen(f"agent:{call.agent_id}:inbox") == 2
    await store.undrain_node("n1")
    left = [json.loads(text)["type"] for text in raw.lrange(f"agent:{call.agent_id}:inbox", 0, -1)]
    assert left == ["assign"]


async def test_undraining_one_node_keeps_the_goodbyes_of_others(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await beat(store, "n1", "n2")
    await warm(store, valkey_url, 1, "n1")
    await warm(store, valkey_url, 1, "n2")
    calls = {(call := await assign(store, user)).node: call for user in ("ada", "bob")}
    await store.drain_node("n1", 0)
    await store.drain_node("n2", 0)
    raw.zadd("deadlines", {"drain|n1": 0, "drain|n2": 0})
    await store.process_deadlines()
    assert await store.undrain_node("n1") == [calls["n1"].session_id]
    assert raw.zscore("deadlines", f"goodbye|{calls['n2'].session_id}")


async def test_the_capacity_of_an_undrained_node_goes_to_the_queue(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await beat(store, "n1", "n2", sessions=1)
    await warm(store, valkey_url, 1, "n1")
    await warm(store, valkey_url, 1, "n2")
    await store.drain_node("n2", 60)
    assert (await assign(store, "ada")).outcome == "assigned"
    waits = await assign(store, "bob")
    assert waits.outcome == "queued"
    await store.undrain_node("n2")
    assert raw.hget(f"session:{waits.session_id}", "status") == "starting"
    assert raw.exists("pool:wake:n2"), "it fills its share of the pool immediately"


async def test_a_node_that_came_back_is_not_removed(store: Store, raw: redis.Redis) -> None:
    await beat(store, "n1")
    raw.sadd("nodes", "back")
    assert await store.vanished() == {"back"}
    await beat(store, "back")
    raw.rpush("node.back", "a task")
    assert not await store.forget_node("back", for_good=True, if_silent=True)
    assert raw.llen("node.back") == 1
    assert raw.smembers("nodes") == {"n1", "back"}


async def test_a_check_scheduled_sooner_is_kept(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await warm(store, valkey_url, 1)
    call = await assign(store, "ada")
    await store.check_room_within(call.session_id, 2)
    later = raw.zscore("deadlines", f"look|{call.session_id}")
    assert later is not None
    raw.zadd("deadlines", {f"look|{call.session_id}": later - 1500})
    await store.check_room_within(call.session_id, 2)
    assert raw.zscore("deadlines", f"look|{call.session_id}") == later - 1500
    await store.check_room_within("session_nobody", 2)
    assert raw.zscore("deadlines", "look|session_nobody") is None
    # Time without a node to process deadlines does not count: the next round extends them by it.
    raw.zrem("deadlines", f"look|{call.session_id}")
    raw.set("deadlines:looked", raw.time()[0] * 1000 - 600_000)
    await store.check_room_within(call.session_id, 2)
    found = raw.zscore("deadlines", f"look|{call.session_id}")
    assert found is not None
    assert found < later - 500_000
