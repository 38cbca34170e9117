"""The Lua scripts on a real Valkey: what they promise, and what they refuse."""

import asyncio
import json
import re

import pytest
import redis

from orchestrator.errors import IllegalMove, StoreUnavailable
from orchestrator.models import new_id
from orchestrator.reasons import Reason, because, words
from orchestrator.states import AGENT_ROWS, LEAVE_MS, SESSION_MOVES, SESSION_ROWS, AgentState, SessionState
from orchestrator.store import Store
from orchestrator.store.loader import Scripts, assemble
from tests.support.agent_link import AgentLink
from tests.support.moves import AGENT_MOVES
from tests.support.pool import POLICY, assign, change, warm
from tests.support.processes import free_ports
from tests.support.redis_clock import span


async def test_a_hit_assigns_a_warm_agent_and_notifies_it(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    (agent_id,) = await warm(store, valkey_url, 1)
    with span(raw) as call:
        result = await assign(store, "ada")
    assert (result.outcome, result.session_id, result.refill) == ("assigned", agent_id, True)
    session = await store.session(agent_id)
    assert session is not None
    assert (session.status, session.agent_id, session.agent_pid, session.prewarmed) == ("ready", agent_id, 1000, True)
    assert raw.smembers("pool:ready") == set()
    assert raw.smembers("session:ready") == {agent_id}
    assert raw.get("session:user:ada") == agent_id
    message = json.loads(raw.lpop(f"agent:{agent_id}:inbox"))
    assert call.has(message.pop("createdAt"))
    expected = {"sessionId": agent_id, "type": "assign", "token": "t", "takeovers": 0, "conversation": []}
    assert message == expected
    assert raw.hget(f"agent:{agent_id}", "state") == "assigned"
    assert [fields["state"] for _, fields in raw.xrange(f"session:{agent_id}:events")] == ["ready"]


async def test_a_missed_session_gets_the_next_warm_agent(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    result = await assign(store, "ada")
    assert result.outcome == "starting"
    assert raw.smembers("session:starting") == {result.session_id}
    assert raw.smembers("pool:starting") == {result.session_id}, "an agent of the session's own id is announced"
    assert await store.position(result.session_id) == 1
    assert await store.claim_agent(result.session_id, "n1") == ("claimed", "")
    link = AgentLink(valkey_url, result.session_id)
    assert await link.ready(77) == result.session_id
    message = await link.next_message()
    assert message is not None
    assert (message["sessionId"], message["type"], message["token"]) == (result.session_id, "assign", "t")
    await link.close()
    session = await store.session(result.session_id)
    assert session is not None
    assert (session.status, session.prewarmed, session.agent_pid) == ("ready", False, 77)
    assert await store.position(result.session_id) is None


async def test_waiting_sessions_are_served_first_come_first_served(store: Store, valkey_url: str) -> None:
    first, second = [(await assign(store, user)).session_id for user in ("a", "b")]
    link = AgentLink(valkey_url, second)  # the second one's agent boots faster
    assert await link.ready(1) == first
    await link.close()


async def test_a_session_never_gets_the_id_of_another(store: Store, valkey_url: str) -> None:
    """Two sessions wait; the second one's agent serves the first, so the first one's agent comes to the pool."""
    await store.set_target(1)
    first, second = [(await assign(store, user)).session_id for user in ("a", "b")]
    for agent_id in (second, first):
        await store.end_session(second, "ended", words("changed their mind")) if agent_id == first else None
        link = AgentLink(valkey_url, agent_id)
        assert await link.ready(1) == (first if agent_id == second else None)
        await link.close()
    third = await assign(store, "c")
    assert (third.outcome, third.agent_id) == ("assigned", first)
    assert third.session_id not in {first, second}
    session = await store.session(third.session_id)
    assert session is not None
    assert (session.agent_id, session.user_id) == (first, "c")


async def test_the_same_user_gets_the_same_session(store: Store, valkey_url: str) -> None:
    await warm(store, valkey_url, 2)
    first = await assign(store, "ada")
    again = await assign(store, "ada")
    assert (again.outcome, again.session_id) == ("existing", first.session_id)
    await store.end_session(first.session_id, "ended", words("test"))
    assert (await assign(store, "ada")).session_id != first.session_id


async def test_the_cap_counts_every_live_session(store: Store, valkey_url: str) -> None:
    await warm(store, valkey_url, 1)
    await change(store, max_sessions=2, queue_limit=1)
    assert (await assign(store, "a")).outcome == "assigned"
    waiting = await assign(store, "b")
    assert waiting.outcome == "starting"
    queued = await assign(store, "c")
    assert queued.outcome == "queued"
    assert (await assign(store, "d")).outcome == "full"
    await store.end_session(waiting.session_id, "ended", words("test"))
    promoted = await store.session(queued.session_id)
    assert promoted is not None
    assert promoted.status == "starting"
    assert (await assign(store, "d")).outcome == "queued"


async def test_the_rate_limit_has_a_sliding_window_and_returns_the_wait(store: Store, raw: redis.Redis) -> None:
    window = 60_000
    seen = [(await assign(store, f"u{n}", address="10.0.0.1", rate_amount=3)).outcome for n in range(3)]
    assert seen == ["starting"] * 3
    refused = await assign(store, "u4", address="10.0.0.1", rate_amount=3)
    assert refused.outcome == "limited"
    assert 0 < int(refused.detail) <= 2 * window
    assert (await assign(store, "u5", address="10.0.0.2", rate_amount=3)).outcome == "starting"
    assert raw.scard("session:starting") == 4, "a refused start changes nothing"
    assert all(0 < raw.pttl(key) <= 2 * window for key in raw.keys("rate:*")), "its memory is bounded"


async def test_a_silent_agent_is_skipped_until_its_next_heartbeat(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    silent, fresh = await warm(store, valkey_url, 2)
    raw.hincrby(f"agent:{silent}", "lastBeat", -16_000)
    assert (await assign(store, "a")).session_id == fresh
    link = AgentLink(valkey_url, silent)
    assert await link.beat() == "ready"
    await link.close()
    assert (await assign(store, "b")).session_id == silent


async def test_a_heartbeat_of_a_silent_agent_serves_a_waiting_session(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    (silent,) = await warm(store, valkey_url, 1)
    raw.hincrby(f"agent:{silent}", "lastBeat", -16_000)
    waiting = await assign(store, "ada")
    assert waiting.outcome == "starting"
    link = AgentLink(valkey_url, silent)
    state = await link.beat()
    await link.close()
    session = await store.session(waiting.session_id)
    assert session is not None
    assert (state, session.status, session.agent_id) == ("assigned", "ready", silent)


async def test_a_bound_agent_that_dies_before_the_call_is_replaced(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await warm(store, valkey_url, 2)
    session_id = (await assign(store, "ada")).session_id
    (spare,) = raw.smembers("pool:ready")
    raw.delete(f"agent:{session_id}:inbox")  # it has read its assignment
    result = await store.record_exit(session_id, because("killed", signal=9), None, 9)
    assert (result.session_id, result.outcome) == (session_id, "replaced")
    session = await store.session(session_id)
    assert session is not None
    assert (session.status, session.agent_id, session.replacements) == ("ready", spare, 1)
    assert json.loads(raw.lpop(f"agent:{spare}:inbox"))["sessionId"] == session_id
    again = await store.record_exit(session_id, because("killed", signal=9), None, 9)
    assert again.outcome == "", "a death counts once"
    result = await store.record_exit(spare, because("crashed", exitCode=1), 1, None)
    assert result.outcome == "waiting"
    session = await store.session(session_id)
    assert session is not None
    assert (session.status, session.agent_id, session.agent_pid) == ("starting", None, None)
    assert await store.position(session_id) == 1


async def test_agents_dead_at_assignment_do_not_count_as_replacements(store: Store, valkey_url: str) -> None:
    """All warm agents are killed at once: their messages stay unread."""
    await warm(store, valkey_url, 6)
    session_id = (await assign(store, "ada")).session_id
    for _ in range(6):
        session = await store.session(session_id)
        assert session is not None
        assert session.agent_id is not None
        await store.record_exit(session.agent_id, because("killed", signal=9), None, 9)
    session = await store.session(session_id)
    assert session is not None
    assert (session.status, session.replacements) == ("starting", 0)


async def test_replacements_are_limited(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await warm(store, valkey_url, 5)
    session_id = (await assign(store, "ada")).session_id
    for expected in ("replaced", "replaced", "error"):
        session = await store.session(session_id)
        assert session is not None
        assert session.agent_id is not None
        raw.delete(f"agent:{session.agent_id}:inbox")
        assert (await store.record_exit(session.agent_id, because("crashed", exitCode=1), 1, None)).outcome == expected
    session = await store.session(session_id)
    assert session is not None
    assert (session.status, session.reason and session.reason.text) == ("error", "agent_lost: exited with code 1")
    assert len(session.agent_ids) == 3


async def in_call(store: Store, url: str, user: str) -> str:
    """Return the id of a session whose user and agent are both in the room."""
    result = await assign(store, user)
    link = AgentLink(url, result.agent_id)
    await link.joined()
    await link.presence(result.session_id, present=True)
    await link.turn(result.session_id, {"role": "user", "text": "my name is Ada", "at": 1.0})
    await link.close()
    return result.session_id


async def test_an_agent_that_dies_in_a_call_is_replaced_in_the_same_room(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await warm(store, valkey_url, 2)
    session_id = await in_call(store, valkey_url, "ada")
    before = await store.session(session_id)
    (spare,) = raw.smembers("pool:ready")
    assert before is not None
    assert before.agent_id is not None
    assert (
        await store.record_exit(before.agent_id, because("killed", signal=11), None, 11, 4096)
    ).outcome == "replaced"
    session = await store.session(session_id)
    assert session is not None
    assert (session.status, session.agent_id, session.room_name) == ("ready", spare, before.room_name)
    assert (session.takeovers, session.replacements) == (1, 0)
    assert session.cause == Reason("killed", {"signal": 11, "agentId": before.agent_id}, "killed by signal 11")
    told = json.loads(raw.lpop(f"agent:{spare}:inbox"))
    assert (told["takeovers"], told["token"]) == (1, "t")
    assert told["conversation"] == [{"role": "user", "text": "my name is Ada", "at": 1.0}]
    states = [event["state"] for event in await store.events(session_id)]
    assert states == ["ready", "agent_joined", "active", "agent_exited", "takeover", "starting", "ready"]
    (dead,) = await store.agent_records([before.agent_id])
    assert (dead.signal, dead.peak_memory) == (11, 4096 * 1024)


async def test_no_event_holds_a_number_as_text(store: Store, valkey_url: str) -> None:
    await warm(store, valkey_url, 2)
    session_id = await in_call(store, valkey_url, "ada")
    session = await store.session(session_id)
    assert session is not None
    assert session.agent_id is not None
    await store.record_exit(session.agent_id, because("killed", signal=11), None, 11, 4096)
    await store.end_session(session_id, "ended", because("user_gone", seconds=20))
    events = {event["state"]: event for event in await store.events(session_id)}
    exited, ready = events["agent_exited"], events["ready"]
    assert (exited["signal"], exited["peakMemoryKib"], "exitCode" in exited) == (11, 4096, False)
    assert (type(ready["agentPid"]), ready["prewarmed"]) == (int, True)
    assert events["ended"]["endedAt"] > events["active"]["activeAt"] > 1e12
    texts = [value for event in events.values() for value in event.values() if isinstance(value, str)]
    assert [text for text in texts if re.fullmatch(r"-?[\d.]+", text)] == []


async def test_an_agent_that_registers_while_joining_keeps_its_session(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await warm(store, valkey_url, 2)
    session_id = (await assign(store, "ada")).session_id
    session = await store.session(session_id)
    assert session is not None
    raw.delete(f"agent:{session_id}")
    link = AgentLink(valkey_url, session_id)
    told = {"id": session_id, "userId": "ada", "roomName": session.room_name, "createdAt": 1, "payload": "{}"}
    assert await link.register(1000, "n1", told | {"activeAt": None, "conversation": []}) == "running"
    await link.joined()
    await link.close()
    assert raw.zscore("deadlines", f"join|{session_id}") is None
    # And one that never comes is replaced, though it counts as running.
    raw.zadd("deadlines", {f"join|{session_id}": 1})
    assert [(action.what, action.id) for action in await store.process_deadlines()] == [("stop", session_id)]
    assert raw.hget(f"agent:{session_id}", "state") == "stopping"
    replaced = await store.session(session_id)
    assert replaced is not None
    assert (replaced.status, replaced.replacements) == ("ready", 1)
    assert replaced.agent_id != session_id


async def test_a_call_does_not_end_while_livekit_is_unavailable(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await warm(store, valkey_url, 1)
    await change(store, user_gone_seconds=0.001)
    session_id = await in_call(store, valkey_url, "ada")
    link = AgentLink(valkey_url, session_id)
    await link.presence(session_id, present=False)
    await link.close()
    await store.livekit_down("no answer")
    raw.zadd("deadlines", {f"gone|{session_id}": 1})
    assert await store.process_deadlines() == []
    assert raw.zscore("deadlines", f"gone|{session_id}") > 1
    await store.livekit_down(None)
    raw.zadd("deadlines", {f"gone|{session_id}": 1})
    assert await store.process_deadlines() == []
    session = await store.session(session_id)
    assert session is not None
    assert (session.status, session.reason and session.reason.text) == ("ended", "user was gone for 0.001 s")


async def test_deleting_the_room_of_an_ended_session_is_retried_until_it_succeeds(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await warm(store, valkey_url, 1)
    session_id = await in_call(store, valkey_url, "ada")
    assert await store.process_deadlines() == []
    await store.end_session(session_id, "ended", words("stopped"))
    member = f"close|{session_id}"
    assert await store.process_deadlines() == [], "what was said last is still on its way"
    for _ in range(2):  # LiveKit did not answer the first time
        raw.zadd("deadlines", {member: 1})
        with span(raw) as look:
            assert [(action.what, action.id) for action in await store.process_deadlines()] == [("close", session_id)]
        assert look.has(raw.zscore("deadlines", member), 5_000), "not again at once"
    await store.room_closed(session_id)
    assert raw.zscore("deadlines", member) is None
    # One that never had an agent never had a room.
    waiting = (await assign(store, "grace")).session_id
    await store.end_session(waiting, "ended", words("stopped"))
    assert raw.zscore("deadlines", f"close|{waiting}") is None
    # The name of the room is lost.
    raw.zadd("deadlines", {"close|session_forgotten": 1})
    assert await store.process_deadlines() == []
    assert raw.zscore("deadlines", "close|session_forgotten") is None


async def test_running_agents_register_before_starts_are_answered(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    """Redis has lost everything. Their waits are those that are set, so the policy comes first."""
    raw.flushall()
    link = AgentLink(valkey_url, new_id("prewarm"))
    told = {
        "id": new_id("session"), "userId": "ada", "roomName": "room_1", "createdAt": 1, "payload": "{}",
        "activeAt": None, "conversation": [],
    }  # fmt: skip
    assert await link.register(1000, "n1", told) == "unset"
    assert raw.keys() == []
    await store.write_policy(POLICY | {"user_join_seconds": 5})
    assert not await store.configured()
    assert (await assign(store, "grace")).outcome == "unset"
    with span(raw) as registration:
        assert await link.register(1000, "n1", told) == "running"
    await link.close()
    assert registration.has(raw.zscore("deadlines", f"user|{told['id']}"), 5_000)
    link = AgentLink(valkey_url, new_id("prewarm"))
    assert await link.register(1001, "n1", {}) == "ready"
    await link.close()
    assert await store.retire_surplus() == [], "nobody has said yet how many are to be warm"
    await store.configure(POLICY, 0)
    assert await store.configured()
    assert (await assign(store, "grace")).outcome == "assigned"


async def test_the_wait_for_a_user_is_shorter_after_a_lost_connection(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await change(store, user_gone_seconds=30)
    for lost, reason in ((False, "user was gone for 30 s"), (True, "the connection of the user was lost")):
        await warm(store, valkey_url, 1)
        session_id = await in_call(store, valkey_url, f"ada-{lost}")
        link = AgentLink(valkey_url, session_id)
        raw.delete("deadlines:looked")  # however long this test pauses here, the wait counts from now
        with span(raw) as report:
            await link.presence(session_id, present=False, lost=lost)
        await link.close()
        assert report.has(raw.zscore("deadlines", f"gone|{session_id}"), 7_500 if lost else 30_000)
        raw.zadd("deadlines", {f"gone|{session_id}": 1})
        await store.process_deadlines()
        session = await store.session(session_id)
        assert session is not None
        assert (session.status, session.reason and session.reason.text) == ("ended", reason)


@pytest.mark.parametrize("away", [60_000, -3_600_000], ids=["no check for a minute", "the clock was set back"])
async def test_deadlines_exclude_time_without_checks(
    store: Store, raw: redis.Redis, valkey_url: str, away: int
) -> None:
    await warm(store, valkey_url, 1)
    session_id = await in_call(store, valkey_url, "ada")
    await store.process_deadlines()
    now = raw.time()[0] * 1000
    # How long each wait had to go at the last look, it has to go now.
    left = {f"max|{session_id}": 1_500, f"beat|{session_id}": 10_000, "reconcile|": 20_000}
    raw.set("deadlines:looked", now - away)
    raw.zadd("deadlines", {member: now - away + ms for member, ms in left.items()})
    with span(raw) as look:
        assert await store.process_deadlines() == []
    session = await store.session(session_id)
    assert session is not None
    assert session.status == "active"
    for member, ms in left.items():
        assert look.has(raw.zscore("deadlines", member), ms)


async def test_takeovers_are_limited_and_can_be_disabled(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await warm(store, valkey_url, 4)
    await change(store, takeover=0)
    off = await in_call(store, valkey_url, "off")
    assert (await store.record_exit(off, because("killed", signal=11), None, 11)).outcome == "error"
    await change(store, takeover=1, max_takeovers=1)
    session_id = await in_call(store, valkey_url, "ada")
    for expected in ("replaced", "error"):
        session = await store.session(session_id)
        assert session is not None
        assert session.agent_id is not None
        raw.delete(f"agent:{session.agent_id}:inbox")
        assert (await store.record_exit(session.agent_id, because("killed", signal=9), None, 9)).outcome == expected
    session = await store.session(session_id)
    assert session is not None
    assert (session.status, session.reason and session.reason.text, session.takeovers) == (
        "error",
        "agent_lost: killed by signal 9",
        1,
    )


async def test_an_agent_has_time_for_its_work_after_the_call_and_its_seat_is_free(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    first, second = await warm(store, valkey_url, 2)
    link = AgentLink(valkey_url, first)
    for agent, end in ((first, because("stopped")), (second, None)):
        session = await assign(store, agent)
        serving = await store.session(session.session_id)
        assert serving is not None
        assert serving.agent_id
        before = await store.now() * 1000
        if end:
            await store.end_session(session.session_id, "ended", end)
        else:
            link.agent_id = serving.agent_id
            await link.failed(because("agent_error", detail="it broke"))
        score = raw.zscore("deadlines", f"stop|{serving.agent_id}")
        allowed = (POLICY["shutdown_seconds"] + POLICY["stop_grace_seconds"]) * 1000 + LEAVE_MS
        assert before + allowed - 1 <= score <= await store.now() * 1000 + allowed
    await link.close()


async def test_ending_a_session_is_idempotent_and_notifies_the_agent(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    (agent_id,) = await warm(store, valkey_url, 1)
    await assign(store, "ada")
    raw.delete(f"agent:{agent_id}:inbox")
    first = await store.end_session(agent_id, "ended", because("stopped"))
    second = await store.end_session(agent_id, "error", words("something else"))
    assert first is not None
    assert second is not None
    assert (first.first, second.first, second.status) == (True, False, "ended")
    inbox = [json.loads(message) for message in raw.lrange(f"agent:{agent_id}:inbox", 0, -1)]
    assert inbox == [{"type": "stop", "reason": "stopped by request", "code": "stopped", "params": {}}]
    assert raw.exists("session:user:ada", f"session:{agent_id}:payload") == 0
    assert raw.ttl(f"session:{agent_id}") > 0
    assert await store.end_session("prewarm_" + "0" * 32, "ended", words("x")) is None


async def test_concurrent_refills_announce_missing_agents_once(store: Store, raw: redis.Redis) -> None:
    await store.set_target(4)
    batches = await asyncio.gather(
        *(store.reserve_agents([new_id("prewarm") for _ in range(8)], "n1") for _ in range(6))
    )
    assert sum(len(batch) for batch in batches) == 4
    assert raw.scard("pool:starting") == 4


async def test_a_refill_counts_the_agents_of_waiting_sessions(store: Store) -> None:
    await store.set_target(2)
    await assign(store, "ada")
    want = [new_id("prewarm") for _ in range(8)]
    assert len(await store.reserve_agents(want, "n1")) == 2, "the session's own agent is announced"


async def test_shrinking_the_pool_stops_only_warm_agents(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await warm(store, valkey_url, 4)
    bound = (await assign(store, "ada")).session_id
    await store.set_target(1)
    stopped = await store.retire_surplus()
    assert len(stopped) == 2
    assert bound not in stopped
    assert raw.scard("pool:ready") == 1
    assert {raw.hget(f"agent:{agent_id}", "state") for agent_id in stopped} == {"stopping"}
    assert raw.hget(f"agent:{bound}", "state") == "assigned"


async def test_a_surplus_agent_is_stopped_once_it_is_warm(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    """It was booting while the pool was made smaller."""
    await store.set_target(1)
    (agent_id,) = await store.reserve_agents([new_id("prewarm")], "n1")
    await store.set_target(0)
    link = AgentLink(valkey_url, agent_id)
    assert await link.ready(1) is None
    assert await link.next_message() == {"type": "stop", "reason": "pool_full", "code": "pool_full", "params": {}}
    await link.close()
    assert raw.smembers("pool:ready") == set()
    assert raw.hget(f"agent:{agent_id}", "state") == "stopping"


async def test_a_redelivered_spawn_task_cannot_claim_its_agent_again(store: Store) -> None:
    agent_id = (await assign(store, "ada")).session_id
    assert [(await store.claim_agent(agent_id, "n1"))[0] for _ in range(2)] == ["claimed", "taken"]
    assert await store.claim_agent("prewarm_" + "1" * 32, "n1") == ("gone", "")


@pytest.mark.parametrize("state", list(SessionState))
@pytest.mark.parametrize("target", list(SessionState))
async def test_the_store_refuses_forbidden_session_transitions(
    store: Store, raw: redis.Redis, valkey_url: str, state: SessionState, target: SessionState
) -> None:
    probe = "-- include: sessions\nmove_session(ARGV[1], ARGV[2]) return 1"
    raw.hset("session:s", mapping={"status": state})
    scripts = Scripts(store._redis)
    scripts._scripts["probe"] = store._redis.register_script(assemble(probe))
    if target in SESSION_MOVES[state]:
        assert await scripts.call("probe", args=["s", target]) == 1
        assert raw.hget("session:s", "status") == target
    else:
        with pytest.raises(IllegalMove, match=f"session s: {state} -> {target}"):
            await scripts.call("probe", args=["s", target])
        assert raw.hgetall("session:s") == {"status": state}, "nothing is half-done"


@pytest.mark.parametrize("state", list(AgentState))
async def test_the_store_refuses_forbidden_agent_transitions(store: Store, raw: redis.Redis, state: AgentState) -> None:
    scripts = Scripts(store._redis)
    probe = "-- include: agents\nmove_agent(ARGV[1], ARGV[2]) return 1"
    scripts._scripts["probe"] = store._redis.register_script(assemble(probe))
    for target in AgentState:
        raw.delete("agent:a")
        raw.hset("agent:a", mapping={"state": state, "node": "n1"})
        if target in AGENT_MOVES[state]:
            assert await scripts.call("probe", args=["a", target]) == 1
            assert raw.hget("agent:a", "state") == target
        else:
            with pytest.raises(IllegalMove, match=f"agent a: {state} -> {target}"):
                await scripts.call("probe", args=["a", target])
            assert raw.hgetall("agent:a") == {"state": state, "node": "n1"}, "nothing is half-done"


async def test_a_record_is_created_once_and_only_in_an_initial_state(store: Store, raw: redis.Redis) -> None:
    scripts = Scripts(store._redis)
    probe = "-- include: enter\nbegin(ARGV[1], 'x', ARGV[2], {'createdAt', 5}, 7) return 1"
    scripts._scripts["probe"] = store._redis.register_script(assemble(probe))
    for kind, rows in (("session", SESSION_ROWS.items()), ("agent", AGENT_ROWS.items())):
        for state, row in rows:
            raw.delete(f"{kind}:x", "deadlines")
            if not row.begins:
                with pytest.raises(IllegalMove, match=f"{kind} x: unknown -> {state}"):
                    await scripts.call("probe", args=[kind, state])
                assert not raw.exists(f"{kind}:x", "deadlines")
                continue
            assert await scripts.call("probe", args=[kind, state]) == 1
            before = raw.hgetall(f"{kind}:x")
            with pytest.raises(IllegalMove, match=f"{kind} x: {state} -> {state}"):
                await scripts.call("probe", args=[kind, state])
            assert raw.hgetall(f"{kind}:x") == before, "a second one is refused"


async def test_an_agents_report_of_an_illegal_state_is_refused(store: Store, valkey_url: str) -> None:
    (agent_id,) = await warm(store, valkey_url, 1)
    link = AgentLink(valkey_url, agent_id)
    with pytest.raises(IllegalMove):
        await link.ready(1)
    with pytest.raises(IllegalMove):
        await link.joined()
    assert AgentState.RUNNING not in AGENT_MOVES[AgentState.READY]
    await link.close()
    stranger = AgentLink(valkey_url, "prewarm_" + "2" * 32)
    with pytest.raises(IllegalMove):
        await stranger.ready(1)
    assert await stranger.beat() == ""
    await stranger.close()


async def test_a_resize_survives_a_restart_and_a_changed_setting_overrides_it(store: Store) -> None:
    await store.configure(POLICY, 3)
    await store.set_target(7)
    await store.configure(POLICY, 3)
    assert (await store.counts())["target"] == 7
    await store.configure(POLICY, 4)
    assert (await store.counts())["target"] == 4


async def test_an_unreachable_redis_raises_an_error_without_hanging() -> None:
    async with Store(f"redis://127.0.0.1:{free_ports()}/0", name="t", keep_seconds=1) as nowhere:
        with pytest.raises(StoreUnavailable, match="Redis does not answer"):
            await nowhere.ping()
        with pytest.raises(StoreUnavailable):
            await nowhere.reserve_agents(["prewarm_x"], "n1")


async def test_wait_boot_returns_the_outcome_of_the_boot(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    """A spawn task that is delivered twice waits twice for one agent."""
    agent_id = (await assign(store, "ada")).session_id
    assert await store.claim_agent(agent_id, "n1") == ("claimed", "")
    assert await store.claim_agent(agent_id, "n1") == ("taken", "")
    both = asyncio.gather(store.wait_boot(agent_id, 5), store.wait_boot(agent_id, 5))
    async with asyncio.timeout(60):
        while raw.info("clients")["blocked_clients"] < 2:  # noqa: ASYNC110 - Redis knows it, and tells nobody
            await asyncio.sleep(0.01)
    link = AgentLink(valkey_url, agent_id)
    await link.ready(4711)
    await link.close()
    assert await both == ["ready", "ready"]
    assert await store.wait_boot(agent_id, 5) == "ready"


async def test_an_agent_with_a_lost_record_is_removed_from_its_nodes_lists(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await store.beat_node("n1", {"host": 1}, 60)
    ids = await warm(store, valkey_url, 3)
    busy = (await assign(store, "ada")).agent_id
    lost = [busy, next(i for i in ids if i != busy)]
    raw.delete(*(f"agent:{i}" for i in lost))
    assert await store.recount_nodes() == 2
    assert (raw.scard("node:n1:warm"), raw.scard("node:n1:busy")) == (1, 0)
    raw.delete("node:n1:warm")
    assert await store.recount_nodes() == 1, "what is missing there comes back"
    assert (raw.scard("node:n1:warm"), raw.scard("node:n1:busy")) == (1, 0)
