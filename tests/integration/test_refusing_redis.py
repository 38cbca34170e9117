"""A Redis that is down or refuses commands: requests during that time, and the recovery."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import redis

from orchestrator.api.app import create
from orchestrator.errors import StoreUnavailable
from orchestrator.models import new_id
from orchestrator.operations import restarts
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.task_queue.app import REFILL, Publisher, make_worker_app
from orchestrator.task_queue.consuming import wait_for_redis
from orchestrator.worker.beat import Scheduler
from tests.support.agent_link import AgentLink
from tests.support.api import ADMIN, is_problem, serve, settings, start
from tests.support.disk import full_disk
from tests.support.guest import until
from tests.support.pool import POLICY, assign, warm
from tests.support.processes import free_ports, start_valkey
from tests.support.refusing import ALL, NO_WRITES, Hurt, Refusing

pytestmark = pytest.mark.impatient

#: Seconds after which everything is to be well again.
HEALED = 15.0

#: The cases with a silent Redis are `thorough`, because each of their requests waits for seconds.
KINDS = [pytest.param(hurt, marks=pytest.mark.thorough) if hurt is Refusing.silent else hurt for hurt in ALL]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Refusing]:
    (tmp_path / "own").mkdir()
    with Refusing.running(tmp_path / "own") as found:
        yield found


@pytest.fixture
async def store(valkey: Refusing) -> AsyncIterator[Store]:
    async with Store(valkey.url, name="test", keep_seconds=3600) as found:
        await found.configure(POLICY, 0)
        yield found


@pytest.fixture
async def http(valkey: Refusing, store: Store, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(create(settings(valkey.url, run_dir=tmp_path))) as client:
        await store.beat_node("n1", {"pid": 1, "host": 1, "lastBeat": 1, "canaryAge": 0}, 60)
        yield client


KEY = {"Idempotency-Key": "one-start-of-grace-and-no-other"}


@pytest.mark.parametrize("hurt", KINDS, ids=lambda hurt: hurt.__name__)
async def test_a_start_is_refused_with_the_cause_and_served_again(
    http: httpx.AsyncClient, store: Store, valkey: Refusing, hurt: Hurt
) -> None:
    agents = await warm(store, valkey.url, 2)
    session_id = (await start(http, "ada")).json()["sessionId"]
    with hurt(valkey) as cause:

        async def told() -> bool:  # the first error may be the closed connection
            body = is_problem(await start(http, "grace", headers=KEY | ADMIN), 503, "store_unavailable")
            assert body["retryAfter"] <= HEALED
            return cause in body["detail"]

        await until(told, "the error names its cause", HEALED)
        for method, path in (
            ("GET", "/readyz"), ("GET", f"/api/session/{session_id}"), ("GET", "/api/sessions"), ("GET", "/api/status"),
            ("GET", "/metrics"), ("GET", f"/api/session/{session_id}/logs"), ("POST", "/api/session/stop"),
            ("POST", "/api/token"), ("POST", "/api/pool/resize"), ("POST", "/api/nodes/api-test/drain"),
        ):  # fmt: skip
            body = {"sessionId": session_id, "size": 3} if method == "POST" else None
            answer = await http.request(method, path, headers=ADMIN, json=body)
            assert answer.status_code < 500 or answer.status_code == 503, f"{path}: {answer.text}"
            if answer.status_code == 503:
                assert answer.headers["Retry-After"], path
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/livez")).status_code == 200

    async def served() -> bool:
        if hurt is Refusing.gone:
            await store.configure(POLICY, 0)  # as nodes do when Redis has lost all data
        # The start without an answer may have succeeded: only the same key gets that session.
        return (await start(http, "grace", headers=KEY)).status_code in {200, 202}

    await until(served, "requests are served again", HEALED)
    if hurt is not Refusing.gone:
        assert {agent.id for agent in await store.agents()} >= set(agents), "the refused start used no agent"


async def test_a_full_redis_accepts_no_new_work_despite_a_warm_agent(store: Store, valkey: Refusing) -> None:
    """Redis would run a script to its end if its first write freed memory."""
    (agent_id,) = await warm(store, valkey.url, 1)
    with valkey.full():
        with pytest.raises(StoreUnavailable, match="OOM"):
            await assign(store, "ada", rate_amount=0)
        with pytest.raises(StoreUnavailable, match="OOM"):
            await store.reserve_agents([new_id("prewarm")], "n1")
    assert (await assign(store, "ada", rate_amount=0)).agent_id == agent_id, "the refused start did not use the agent"


@pytest.mark.parametrize("hurt", KINDS, ids=lambda hurt: hurt.__name__)
async def test_the_health_route_names_the_refusal_of_redis(
    http: httpx.AsyncClient, store: Store, valkey: Refusing, hurt: Hurt, tmp_path: Path
) -> None:
    ends = restarts.Ends(tmp_path)
    for _ in range(restarts.MANY):
        ends.note("worker", "no permission to subscribe")
    with hurt(valkey) as cause:
        answer = await http.get("/api/health", headers=ADMIN)
        if hurt is Refusing.unable_to_save and answer.status_code == 503:
            assert cause in answer.json()["detail"], "Redis may answer every command with this error, even PING"
        elif hurt in NO_WRITES:
            assert answer.status_code == 200, answer.text
            body = answer.json()
            assert body["status"] == "degraded"
            assert cause in body["warnings"][0]
            assert cause in body["redis"]["trouble"]
            assert body["redis"]["ok"] is False
        else:

            async def told() -> bool:
                answer = await http.get("/api/health", headers=ADMIN)
                return cause in is_problem(answer, 503, "store_unavailable")["detail"]

            await until(told, "the error names its cause", HEALED)
        assert "worker was started again 3 times" in answer.text
        assert "no permission to subscribe" in answer.text
        codes = {each["code"]: each["params"] for each in answer.json()["warningCodes"]}
        assert codes["program_restarts"]["program"] == "worker"
        assert "program_restarts" not in (await http.get("/api/health")).text

    async def well() -> bool:
        answer = await http.get("/api/health", headers=ADMIN)
        return answer.status_code == 200 and answer.json()["redis"]["ok"]

    await until(well, "the health route reports no trouble", HEALED)


@pytest.mark.parametrize("hurt", KINDS, ids=lambda hurt: hurt.__name__)
async def test_an_agent_keeps_running_and_reports_again_later(store: Store, valkey: Refusing, hurt: Hurt) -> None:
    (agent_id,) = await warm(store, valkey.url, 1)
    link = AgentLink(valkey.url, agent_id)
    try:
        assert await link.beat() == "ready"
        with hurt(valkey):
            with pytest.raises(StoreUnavailable):
                await link.beat()
            with contextlib.suppress(StoreUnavailable):
                async with asyncio.timeout(9):
                    await link.next_message()

        async def beats() -> bool:
            with contextlib.suppress(StoreUnavailable):
                await link.beat()
                return True
            return False

        await until(beats, "the agent has a heartbeat", HEALED)
    finally:
        await link.close()


@pytest.mark.parametrize("hurt", KINDS, ids=lambda hurt: hurt.__name__)
def test_a_task_that_cannot_be_queued_raises_a_temporary_error(valkey: Refusing, hurt: Hurt) -> None:
    publisher = Publisher(valkey.url)
    try:
        publisher.send(REFILL)
        with hurt(valkey) as cause:
            for _ in range(2):  # the first error may be the closed connection
                with pytest.raises(StoreUnavailable) as refused:
                    publisher.send(REFILL)
            if cause != "does not answer":
                assert cause in refused.value.detail
        deadline = time.monotonic() + HEALED
        while True:
            try:
                publisher.send(REFILL)
            except StoreUnavailable:
                assert time.monotonic() < deadline
            else:
                break
    finally:
        publisher.close()


@pytest.mark.thorough
async def test_a_full_disk_of_the_append_only_file_is_a_temporary_error(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    port = free_ports()
    with full_disk(tmp_path / "disk", "4M") as fill:
        process = start_valkey(tmp_path / "disk", port, "--appendonly", "yes")
        try:
            async with Store(f"redis://127.0.0.1:{port}/0", name="test", keep_seconds=3600) as store:
                await store.configure(POLICY, 0)
                ballast = fill()
                with redis.Redis(port=port) as writer:
                    writer.set("test:more", "x" * 4096)  # than fits into the page at the end of the file

                async def refused() -> bool:
                    return "No space left on device" in str((await store.reading()).server.refusal)

                async def served() -> bool:
                    return (await store.reading()).server.refusal is None

                await until(refused, "Redis refuses writes", HEALED)
                assert await store.now() > 0, "reads still work"
                ballast.unlink()
                await until(served, "requests are served again", HEALED)
        finally:
            process.kill()  # before the disk is unmounted
            process.wait()


async def test_a_changed_password_is_a_temporary_error(tmp_path: Path) -> None:
    """The password is changed on the server before the node's setting, and then changed back."""
    (tmp_path / "own").mkdir()
    with Refusing.running(tmp_path / "own", "first") as valkey:
        publisher, app = Publisher(valkey.url), make_worker_app(Settings(redis_url=valkey.url, node_id="n1"))
        scheduler = Scheduler(app=app)
        async with Store(valkey.url, name="test", keep_seconds=3600) as store:
            await store.configure(POLICY, 0)
            async with serve(create(settings(valkey.url, run_dir=tmp_path))) as http:
                await asyncio.to_thread(publisher.send, REFILL)
                with valkey.wanting_a_password() as cause:

                    async def told() -> bool:  # the first error may be the closed connection
                        answer = await start(http, "ada", headers=ADMIN)
                        return cause in is_problem(answer, 503, "store_unavailable")["detail"]

                    await until(told, "the error names its cause", HEALED)
                    assert cause in (await http.get("/api/health", headers=ADMIN)).text
                    for _ in range(2):
                        with pytest.raises(StoreUnavailable):
                            await asyncio.to_thread(publisher.send, REFILL)
                    assert scheduler.tick() > 0

                async def served() -> bool:
                    return (await start(http, "ada")).status_code in {200, 202}

                await until(served, "requests are served again", HEALED)
                await asyncio.to_thread(publisher.send, REFILL)
                ticks(scheduler, valkey)
        scheduler.close()
        app.close()
        publisher.close()


@pytest.mark.parametrize("hurt", KINDS, ids=lambda hurt: hurt.__name__)
def test_beat_waits_and_takes_its_lock_again(valkey: Refusing, hurt: Hurt) -> None:
    app = make_worker_app(Settings(redis_url=valkey.url, node_id="n1"))
    scheduler = Scheduler(app=app)
    try:
        with hurt(valkey):  # at beat's start
            assert scheduler.tick() > 0
        ticks(scheduler, valkey)
        with hurt(valkey):  # while it runs
            assert scheduler.tick() > 0
        ticks(scheduler, valkey)
        valkey.admin.flushall()  # its lock is gone
        assert scheduler.tick() > 0
        ticks(scheduler, valkey)
        with hurt(valkey):
            scheduler.close()  # must not raise
    finally:
        app.close()


def ticks(scheduler: Scheduler, valkey: Refusing) -> None:
    """Wait until beat ticks."""
    deadline = time.monotonic() + HEALED
    with redis.Redis.from_url(valkey.url) as raw:
        raw.delete("beat:ticks")
        while not raw.hexists("beat:ticks", "beat"):
            assert time.monotonic() < deadline
            scheduler.tick()


@pytest.mark.thorough
@pytest.mark.parametrize("hurt", KINDS, ids=lambda hurt: hurt.__name__)
async def test_a_celery_worker_waits_for_redis_before_its_start(valkey: Refusing, hurt: Hurt) -> None:
    with hurt(valkey):
        waiting = asyncio.create_task(asyncio.to_thread(wait_for_redis, Settings(redis_url=valkey.url)))
        done, _ = await asyncio.wait([waiting], timeout=1.5)
        assert not done, "the worker neither begins nor exits"
    async with asyncio.timeout(HEALED):
        await waiting
