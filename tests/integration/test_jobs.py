"""LiveKit's jobs on a real Valkey: each is served immediately or not at all, and only once if it is offered again."""

import redis

from orchestrator.models import new_id
from orchestrator.reasons import words
from orchestrator.store import Assignment, DispatchRef, Store
from tests.support.agent_link import AgentLink
from tests.support.pool import assign, change, warm


async def ask(store: Store, room: str, job: str = "AJ_1", **changes: object) -> Assignment:
    """Assign an agent for a job, with the same arguments as the dispatch service."""
    key = {"idempotency_key": f"dispatch:{job}", "fingerprint": room}
    return await assign(store, f"room:{room}", room_name=room, job=DispatchRef(job, "AD_1", "n1"), **key | changes)


async def test_a_job_gets_a_warm_agent_and_its_details_are_recorded(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await warm(store, valkey_url, 1)
    given = await ask(store, "lobby")
    assert given.outcome == "assigned"
    session = await store.session(given.session_id)
    assert session is not None
    facts = (session.via, session.job_id, session.dispatch_id, session.dispatch_node, session.room_name)
    assert facts == ("dispatch", "AJ_1", "AD_1", "n1", "lobby")
    (first,) = [fields for _, fields in raw.xrange(f"session:{session.id}:events")]
    assert first | {"via": "dispatch", "jobId": "AJ_1", "dispatchId": "AD_1", "roomName": "lobby"} == first
    assert await store.newest_session_of_room("lobby") == session.id
    assert await store.session_of_job("dispatch:AJ_1") == session.id


async def test_a_session_started_over_http_has_no_job(store: Store, raw: redis.Redis) -> None:
    started = await assign(store, "ada", room_name="room_1")
    assert await store.newest_session_of_room("room_1") == started.session_id
    session = await store.session(started.session_id)
    assert session is not None
    assert (session.via, session.job_id, session.dispatch_node) == (None, None, None)
    assert raw.zscore("deadlines", f"job|{session.id}") is None
    (first,) = [fields for _, fields in raw.xrange(f"session:{session.id}:events")]
    assert first == {"state": "starting"}


async def test_a_job_without_a_warm_agent_boots_one(store: Store) -> None:
    assert (await ask(store, "lobby")).outcome == "starting"


async def test_the_same_job_is_the_same_session(store: Store, valkey_url: str) -> None:
    await warm(store, valkey_url, 2)
    first, again = await ask(store, "lobby"), await ask(store, "lobby")
    assert (again.outcome, again.session_id) == ("repeated", first.session_id)
    assert (await store.counts())["pool"] == 1


async def test_a_room_has_one_session(store: Store, valkey_url: str) -> None:
    await warm(store, valkey_url, 2)
    first, second = await ask(store, "lobby"), await ask(store, "lobby", "AJ_2")
    assert (second.outcome, second.session_id) == ("occupied", first.session_id)
    await store.end_session(first.session_id, "ended", words("over"))
    third = await ask(store, "lobby", "AJ_2")
    assert third.outcome == "assigned"
    assert await store.newest_session_of_room("lobby") == third.session_id


async def test_the_room_is_kept_as_long_as_the_record(store: Store, raw: redis.Redis) -> None:
    first = await ask(store, "lobby")
    assert raw.ttl("session:room:lobby") == -1
    await store.end_session(first.session_id, "ended", words("over"))
    assert 0 < raw.ttl("session:room:lobby") <= 3600
    # The end of an older session does not change the keys of a newer one.
    second = await ask(store, "lobby", "AJ_2")
    assert raw.ttl("session:room:lobby") == -1
    await store.end_session(first.session_id, "ended", words("again"))
    assert raw.ttl("session:room:lobby") == -1
    assert await store.newest_session_of_room("lobby") == second.session_id


async def test_a_job_is_never_queued(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await change(store, max_sessions=1)
    await warm(store, valkey_url, 1)
    taken = await ask(store, "lobby")
    full = await ask(store, "desk", "AJ_2")
    assert (full.outcome, full.detail) == ("full", "sessions")
    assert raw.zcard("session:queued") == 0
    assert await store.session_of_job("dispatch:AJ_2") is None, "it may be offered again"
    assert (await assign(store, "ada")).outcome == "queued"
    await store.end_session(taken.session_id, "ended", words("over"))
    await change(store, max_sessions=2)
    raw.zadd("session:queued", {new_id("session"): 1})
    line = await ask(store, "desk", "AJ_2")
    assert (line.outcome, line.detail) == ("full", "line")


async def test_a_job_is_refused_without_free_memory(store: Store) -> None:
    await store.report_memory("n1", "3 MiB are free", hold_seconds=60)
    refused = await ask(store, "lobby")
    assert (refused.outcome, refused.detail, refused.shortage) == ("full", "memory", "3 MiB are free")
    capacity = await store.capacity("n1")
    assert (capacity.refusal, capacity.detail, capacity.shortage) == ("full", "memory", "3 MiB are free")


async def test_a_job_that_livekit_does_not_assign_ends(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await warm(store, valkey_url, 2)
    lost, given = await ask(store, "lobby"), await ask(store, "desk", "AJ_2")
    await store.job_assigned(given.session_id)
    for found in (lost, given):
        raw.zadd("deadlines", {f"job|{found.session_id}": 1}, xx=True)
    await store.process_deadlines()
    ended, live = await store.session(lost.session_id), await store.session(given.session_id)
    assert ended is not None
    assert live is not None
    assert (ended.status, ended.reason and ended.reason.text) == (
        "error",
        "job_lost: LiveKit did not assign its job within 7.5 s",
    )
    assert live.status == "ready"


async def test_a_running_call_is_not_ended_by_its_job_deadline(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    (agent,) = await warm(store, valkey_url, 1)
    session = (await ask(store, "lobby")).session_id
    link = AgentLink(valkey_url, agent)
    await link.joined()
    await link.presence(session, present=True)
    await link.close()
    assert raw.zscore("deadlines", f"job|{session}") is None


async def test_the_capacity_reported_to_livekit_is_correct(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await store.beat_node("n1", {"host": 1}, 60)

    async def said() -> tuple[int, int, str, str]:
        found = await store.capacity("n1")
        assert (found.detail == "memory") is bool(found.shortage)
        return found.live, found.max_sessions, found.refusal, found.shortage or found.detail

    await change(store, max_sessions=2)
    assert await said() == (0, 2, "", "")
    await store.report_memory("n1", "3 MiB are free", hold_seconds=60)
    assert await said() == (0, 2, "full", "3 MiB are free")
    await warm(store, valkey_url, 1)
    assert await said() == (0, 2, "", ""), "a warm agent needs no further memory"
    await ask(store, "lobby")
    assert await said() == (1, 2, "full", "3 MiB are free")
    await store.report_memory("n1", "", hold_seconds=60)
    raw.hset("pool:breaker", mapping={"failures": 5, "cause": "boot_error: no model"})
    assert await said() == (1, 2, "broken", "boot_error: no model")
    raw.delete("pool:breaker")
    await ask(store, "desk", "AJ_2")
    assert await said() == (2, 2, "full", "sessions")
    await store.livekit_down("no answer")
    assert await said() == (2, 2, "livekit", "no answer")
    await store.livekit_down(None)
    await store.drain_node("n1", 60)
    assert (await said())[2] == "draining"
    raw.delete("policy")
    assert (await said())[2] == "unset"
