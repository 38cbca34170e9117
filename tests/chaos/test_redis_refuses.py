"""Redis is down or refuses writes: no program of the node exits, no call is affected, and everything recovers."""

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.call.caller import Call
from orchestrator.operations import restarts
from tests.chaos.conftest import LONG
from tests.support.agreement import agrees
from tests.support.ear import Ear
from tests.support.node import Node
from tests.support.processes import poll
from tests.support.refusing import Hurt, Refusing

log = logging.getLogger(__name__)

#: Seconds without a working Redis: long enough for a beat that exits instead of waiting to be restarted twice.
AWAY = 120 if LONG else 6
#: Maximum seconds until everything works again.
HEALED = 15
PROGRAMS = ("relay", "host", "worker", "beat", "api", "livekit", "drain")


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refusing]:
    with Refusing.running(tmp_path_factory.mktemp("refusing")) as found:
        yield found


@pytest.fixture(scope="module")
def node(short_folder: Path, valkey: Refusing, fault_log: Path) -> Iterator[Node]:
    folder = short_folder / "refused"
    folder.mkdir()
    settings = {"POOL_TARGET": 1, "AGENT_MODULE": "agents/echo.py", "FAULT_LOG": fault_log, "REDIS_URL": valkey.url}
    with Node(folder, **settings) as found:
        yield found


def pids(node: Node) -> dict[str, int | None]:
    return {name: node.program(name) for name in PROGRAMS}


def refused(node: Node, cause: str, seconds: float) -> None:
    """Repeat requests that cannot be served: each error names the cause, and so does the health route."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        start = node.http.post("/api/session/start", json={"userId": "impatient"}, headers=node.admin)
        assert start.status_code == 503, start.text
        assert int(start.headers["Retry-After"]) <= HEALED
        assert cause in start.json()["detail"]
        health = node.http.get("/api/health", headers=node.admin)
        assert health.status_code in {200, 503}, health.text
        assert cause in health.text
        assert node.http.get("/readyz").status_code == 503
        assert node.http.get("/livez").is_success
        time.sleep(0.2)


def works(node: Node, since: float) -> bool:
    """Return whether a start is served and a task was done since the outage."""
    answer = node.http.post("/api/session/start", json={"userId": f"{since}"})
    if not answer.is_success:
        return False
    node.end(answer.json()["sessionId"])
    health = node.health()
    ages = [float(fields["canaryAge"]) for fields in health.get("nodes", {}).values()]
    return bool(ages) and min(ages) < time.monotonic() - since - 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize("hurt", [Refusing.gone, Refusing.read_only, Refusing.full], ids=lambda hurt: hurt.__name__)
async def test_no_program_exits_while_redis_is_unavailable(node: Node, valkey: Refusing, hurt: Hurt) -> None:
    async with Call(node.url, f"talker-{hurt.__name__}") as call:
        call.hum()
        await call.sound()
        await call.next_sound()
        before, programs = await call.look(), await asyncio.to_thread(pids, node)
        async with Ear(call) as ear:
            with hurt(valkey) as cause:
                await asyncio.to_thread(refused, node, cause, AWAY)
                assert await asyncio.to_thread(pids, node) == programs, "a program was restarted"
                assert restarts.troubles(node.run_dir) == []
            back = time.monotonic()
            await asyncio.to_thread(poll, lambda: works(node, back), "everything works again", HEALED, every=0.3)
            log.info(f"{hurt.__name__}: works {time.monotonic() - back:.1f} s after; silence {ear.silence:.2f} s")
        after = await call.look()
        same = ("status", "agentId", "agentPid", "takeovers", "replacements")
        assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert await asyncio.to_thread(pids, node) == programs
    await asyncio.to_thread(agrees, node, 30)
