"""How LiveKit's jobs are handled: the API on a real Valkey, with a LiveKit that never answers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from orchestrator.api import health
from orchestrator.api.app import create
from orchestrator.api.dispatch import DispatchService
from orchestrator.api.services import Services
from orchestrator.errors import StoreUnavailable
from orchestrator.livekit.jobs import Answer, JobOffer, Outcome, WorkerLoad
from orchestrator.models import Session
from orchestrator.pool.assignment import SessionRequest
from orchestrator.reasons import because, words
from orchestrator.store import Store
from tests.integration.test_api import serve, settings
from tests.support.agent_link import AgentLink
from tests.support.api import ADMIN
from tests.support.guest import until
from tests.support.pool import change, warm
from tests.support.processes import poll

NO = Answer(available=False)


class Reports:
    """Replaces the connection: records the reports to LiveKit about jobs."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Outcome, str]] = []
        self.load = WorkerLoad()
        self.connected = True

    def report_load(self, load: WorkerLoad) -> None:
        self.load = load

    async def report_job(self, job_id: str, outcome: Outcome, error: str = "") -> bool:
        if self.connected:
            self.said.append((job_id, outcome, error))
        return self.connected


@pytest.fixture
async def parts(store: Store, valkey_url: str) -> AsyncIterator[Services]:
    app = create(settings(valkey_url))
    async with serve(app):
        yield app.state.services


@pytest.fixture
def dispatch(parts: Services) -> DispatchService:
    found = DispatchService(parts)
    found.worker = Reports()  # type: ignore[assignment]
    return found


def said(dispatch: DispatchService) -> list[tuple[str, Outcome, str]]:
    worker: Any = dispatch.worker
    found: list[tuple[str, Outcome, str]] = worker.said
    return found


def job(number: int = 1, room: str = "lobby", metadata: str = "") -> JobOffer:
    return JobOffer(f"AJ_{number}", f"AD_{number}", room, metadata)


async def of(store: Store, answer: Answer) -> Session:
    """Return the session of a job that was taken."""
    assert answer.available
    session = await store.session(answer.identity)
    assert session is not None
    return session


async def test_a_job_is_an_ordinary_session(dispatch: DispatchService, store: Store, valkey_url: str) -> None:
    (agent,) = await warm(store, valkey_url, 1)
    session = await of(store, await dispatch.on_availability(job(metadata='{"name": "Ada"}')))
    assert (session.status, session.user_id, session.room_name) == ("ready", "room:lobby", "lobby")
    assert (session.via, session.job_id, session.dispatch_id, session.dispatch_node) == (
        "dispatch",
        "AJ_1",
        "AD_1",
        "api-test",
    )
    link = AgentLink(valkey_url, agent)
    told = await link.next_message()
    await link.close()
    assert told is not None
    assert (told["room"], told["metadata"], told["userId"]) == ("lobby", {"name": "Ada"}, "room:lobby")


async def test_a_job_on_an_empty_pool_starts_an_agent(
    dispatch: DispatchService, store: Store, raw: redis.Redis
) -> None:
    session = await of(store, await dispatch.on_availability(job()))
    assert session.status == "starting"
    spawns = [text for text in raw.lrange("celery", 0, -1) if "spawn_agent" in text]
    assert [session.id in text for text in spawns] == [True]


async def test_a_job_is_declined_when_its_agent_cannot_be_queued(
    dispatch: DispatchService, parts: Services, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(Services, "publish", fail)
        assert await dispatch.on_availability(job()) == NO
    (session,) = await store.sessions()
    assert (session.status, session.reason and session.reason.text) == ("error", "spawn_not_queued")
    assert (await dispatch.on_availability(job())).available, "another API process may get the same job"


async def test_the_same_job_through_another_api_is_the_same_session(
    dispatch: DispatchService, parts: Services, store: Store, valkey_url: str
) -> None:
    await warm(store, valkey_url, 2)
    answers = await asyncio.gather(dispatch.on_availability(job()), DispatchService(parts).on_availability(job()))
    assert answers[0] == answers[1]
    assert len(await store.sessions()) == 1


async def test_a_second_job_for_a_room_is_declined(dispatch: DispatchService, store: Store) -> None:
    assert (await dispatch.on_availability(job(1))).available
    assert await dispatch.on_availability(job(2)) == Answer(available=False, terminate=True)
    assert len(await store.sessions()) == 1


async def test_a_job_whose_session_has_ended_is_declined(dispatch: DispatchService, store: Store) -> None:
    session = await of(store, await dispatch.on_availability(job()))
    await store.end_session(session.id, "ended", words("over"))
    assert await dispatch.on_availability(job()) == NO


async def test_jobs_are_declined_when_no_agent_can_serve_them(
    dispatch: DispatchService, parts: Services, store: Store, valkey_url: str
) -> None:
    assert await dispatch.on_availability(job(metadata="x" * 5000)) == NO
    await change(store, max_sessions=1)
    assert (await dispatch.on_availability(job(1, "desk"))).available
    assert await dispatch.on_availability(job(2)) == NO
    await change(store, max_sessions=5)
    await store.livekit_down("no answer")
    assert await dispatch.on_availability(job(2)) == NO
    await store.livekit_down(None)
    # A user whose id equals the one derived from the room: that user's session does not belong to the room.
    await parts.assigner.start(SessionRequest("room:lobby", {}))
    assert await dispatch.on_availability(job(2)) == NO
    parts.feed.close()
    assert await dispatch.on_availability(job(3, "hall")) == NO, "the API is stopping"
    assert len(await store.sessions()) == 2


async def test_a_full_node_reports_the_same_reason_as_a_refused_start(
    dispatch: DispatchService, parts: Services, store: Store, raw: redis.Redis
) -> None:
    async def full() -> str:
        await dispatch._report_load()
        refusal = await parts.assigner.refusal()
        assert dispatch._full == (refusal.detail if refusal else "")
        worker: Any = dispatch.worker
        assert worker.load.full is bool(refusal)
        return dispatch._full

    await store.report_memory("n1", "3 MiB are free", hold_seconds=60)
    assert await full() == "No agent is started: 3 MiB are free."
    await store.report_memory("n1", "", hold_seconds=60)
    await change(store, max_sessions=1)
    assert await full() == ""
    assert (await dispatch.on_availability(job())).available
    assert await full() == "All 1 sessions are taken."
    await store.livekit_down("no answer")
    assert await full() == "No call can begin: no answer"
    raw.delete("policy")
    assert "No node has told Redis its settings" in await full()
    parts.feed.close()
    await dispatch._report_load()
    assert dispatch._full == "The api is stopping."


async def test_the_state_of_a_job_is_reported_to_livekit(
    dispatch: DispatchService, store: Store, valkey_url: str
) -> None:
    (agent,) = await warm(store, valkey_url, 1)
    session = await of(store, await dispatch.on_availability(job()))
    await dispatch._report_jobs()
    assert said(dispatch) == []
    link = AgentLink(valkey_url, agent)
    await link.joined()
    await link.close()
    for _ in range(2):
        await dispatch._report_jobs()
    assert said(dispatch) == [("AJ_1", Outcome.RUNNING, "")]
    await store.end_session(session.id, "ended", because("user_gone", seconds=20))
    dispatch.worker.connected = False  # type: ignore[attr-defined]
    await dispatch._report_jobs()
    dispatch.worker.connected = True  # type: ignore[attr-defined]
    for _ in range(2):
        await dispatch._report_jobs()
    assert said(dispatch)[1:] == [("AJ_1", Outcome.SUCCESS, "")], "reported once, as soon as the report can be sent"
    assert dispatch.running() == []


async def test_a_failed_job_is_reported_with_its_reason(dispatch: DispatchService, store: Store) -> None:
    session = await of(store, await dispatch.on_availability(job()))
    await store.end_session(session.id, "error", because("boot_error", detail="no model"))
    await dispatch._report_jobs()
    assert said(dispatch) == [("AJ_1", Outcome.FAILED, "boot_error: no model")]


async def test_an_assignment_is_recorded_and_an_unknown_one_fails(
    dispatch: DispatchService, parts: Services, store: Store, raw: redis.Redis
) -> None:
    session = await of(store, await DispatchService(parts).on_availability(job()))
    assert raw.zscore("deadlines", f"job|{session.id}") is not None
    await dispatch.on_assignment(job())  # LiveKit had offered it to another worker first
    assert raw.zscore("deadlines", f"job|{session.id}") is None
    assert dispatch.running() == ["AJ_1"]
    await dispatch.on_assignment(job(2, "desk"))
    assert said(dispatch) == [("AJ_2", Outcome.FAILED, "there is no session for this job")]


async def test_a_deleted_dispatch_ends_the_session(dispatch: DispatchService, store: Store) -> None:
    session = await of(store, await dispatch.on_availability(job()))
    await dispatch.on_termination("AJ_9")
    await dispatch.on_termination("AJ_1")
    ended = await store.session(session.id)
    assert ended is not None
    assert (ended.status, ended.reason and ended.reason.text) == ("ended", "LiveKit has ended its dispatch")


async def test_the_next_api_of_a_node_takes_its_jobs_over(
    dispatch: DispatchService, parts: Services, store: Store, raw: redis.Redis
) -> None:
    await dispatch.on_availability(job(1))
    elsewhere = await of(store, await dispatch.on_availability(job(2, "desk")))
    over = await of(store, await dispatch.on_availability(job(3, "hall")))
    raw.hset(f"session:{elsewhere.id}", "door", "another-node")
    await store.end_session(over.id, "ended", words("over"))
    await parts.assigner.start(SessionRequest("ada", {}))
    successor = DispatchService(parts)
    await successor._take_over()
    assert successor.running() == ["AJ_1"]


async def test_health_reports_the_worker_registration(
    store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(create(settings(valkey_url))) as http:

        async def registration() -> dict[str, Any]:
            found = (await http.get("/api/health", headers=ADMIN)).json()["doors"]
            return next((one for one in found.values() if one["error"]), {})

        found = await until(registration, "the health route has the error of the registration")
        assert (found["registered"], found["agentName"], found["jobs"]) == (False, "voice-agent", 0)
        assert "127.0.0.1" in found["error"]
        warnings = (await http.get("/api/health", headers=ADMIN)).json()["warnings"]
        assert not [words for words in warnings if "registered" in words]
        monkeypatch.setattr(health, "REGISTRATION_SECONDS", -1)
        warnings = (await http.get("/api/health", headers=ADMIN)).json()["warnings"]
        (words,) = [words for words in warnings if "registered" in words]
        assert words.startswith("node api-test has not been registered with LiveKit for ")
        assert words.endswith(found["error"])


async def test_a_closed_worker_connection_leaves_no_record(store: Store, valkey_url: str, raw: redis.Redis) -> None:
    async with serve(create(settings(valkey_url))):
        await asyncio.to_thread(poll, lambda: raw.scard("doors") == 1, "the door is recorded")
        (name,) = raw.smembers("doors")
        assert 0 < raw.ttl(f"door:{name}") <= 15
    assert raw.keys("door*") == []
