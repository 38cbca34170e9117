"""T16: the network to Redis drops everything silently. Nothing hangs, and everything recovers automatically."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import redis

from orchestrator.call.caller import Call
from tests.chaos.conftest import LONG
from tests.support.agreement import agrees
from tests.support.ear import Ear
from tests.support.node import Node
from tests.support.processes import free_ports, poll, start_valkey, stop
from tests.support.proxy import FaultProxy

log = logging.getLogger(__name__)

#: Seconds without Redis; maximum seconds until everything works afterwards.
HOLE = 60 if LONG else 15
HEALED = 60


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    """A Valkey behind a fault proxy."""
    port = free_ports()
    valkey = start_valkey(tmp_path_factory.mktemp("hole"), port)
    with FaultProxy("127.0.0.1", port) as found:
        yield found
    stop(valkey)


@pytest.fixture(scope="module")
def node(short_folder: Path, proxy: FaultProxy, fault_log: Path) -> Iterator[Node]:
    """A node that reaches its Redis through the proxy."""
    folder = short_folder / "hole"
    folder.mkdir()
    settings = {
        "POOL_TARGET": 2, "AGENT_MODULE": "agents/echo.py", "USER_JOIN_SECONDS": 600, "FAULT_LOG": fault_log,
        "REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0",
    }  # fmt: skip
    with Node(folder, **settings) as found:
        yield found


async def ask(http: httpx.AsyncClient, session_id: str, until: float) -> list[float]:
    """Repeat requests that need Redis; returns the response times."""
    waits = []
    while time.monotonic() < until:
        for method, path, body in (
            ("POST", "/api/session/start", {"userId": "impatient"}),
            ("GET", f"/api/session/{session_id}", None),
            ("GET", "/readyz", None),
        ):
            asked = time.monotonic()
            answer = await http.request(method, path, json=body)
            waits.append(time.monotonic() - asked)
            assert answer.status_code == 503, f"{method} {path}: {answer.text}"
            assert answer.headers["content-type"] == "application/problem+json"
            await asyncio.sleep(0.2)
        assert (await http.get("/livez")).is_success
    return waits


@pytest.fixture
async def http(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    """An async client, so that requests do not block a call in the same event loop."""
    async with httpx.AsyncClient(base_url=node.url, timeout=10) as found:
        yield found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("keep", [True, False], ids=["silent for good", "reset when it ends"])
async def test_a_black_holed_redis_gets_prompt_errors_and_recovers(
    node: Node, proxy: FaultProxy, http: httpx.AsyncClient, keep: bool
) -> None:
    await asyncio.to_thread(node.resize, 2)
    async with Call(node.url, f"talker-{keep}") as call:
        call.hum()
        await call.sound()
        await call.next_sound()
        before = await call.look()
        await asyncio.to_thread(node.resize, 0)
        async with Ear(call) as ear:
            await asyncio.to_thread(proxy.black_hole, keep=keep)
            waits = await ask(http, call.session_id, time.monotonic() + HOLE)
            await asyncio.to_thread(proxy.pass_through)
            back = time.monotonic()
            served = await asyncio.to_thread(
                poll, lambda: serves(node, f"{back}"), "a start is served", HEALED, every=0.5
            )
            took = time.monotonic() - back
            # Each heartbeat of the node reports its canary's age: a small age means that a task was done since then.
            young = lambda: canary(node) < time.monotonic() - back - 2  # noqa: E731
            await asyncio.to_thread(poll, young, "a task comes through", back + HEALED - time.monotonic(), every=0.2)
            consumed = time.monotonic() - back
            log.info(
                f"answers within {max(waits):.2f} s; served {took:.1f} s, canary {consumed:.1f} s after; "
                f"silence {ear.silence:.2f} s"
            )
        after = await call.look()
        same = ("status", "agentId", "agentPid", "takeovers", "replacements")
        assert {name: after[name] for name in same} == {name: before[name] for name in same}
        await asyncio.to_thread(node.end, served)
        await asyncio.to_thread(node.resize, 2)
        await asyncio.to_thread(agrees, node, 30)


@pytest.mark.timeout(180)
async def test_clients_follow_a_failover_while_the_old_server_still_runs(
    node: Node, proxy: FaultProxy, tmp_path: Path
) -> None:
    """As with managed Redis: the name resolves to the promoted replica; open connections stay with the old server."""
    port, first = free_ports(), proxy._server[1]
    programs = {name: node.program(name) for name in ("worker", "beat", "api", "host", "relay")}
    valkey = start_valkey(tmp_path, port, "--repl-diskless-sync-delay", "0")
    try:
        with redis.Redis(port=first) as old, redis.Redis(port=port) as new:
            new.replicaof("127.0.0.1", first)
            poll(lambda: new.info("replication")["master_link_status"] == "up", "the replica is in sync")
            async with Call(node.url, "follows") as call:
                call.hum()
                await call.sound()
                before = await call.look()
                old.wait(1, 5000)
                new.replicaof("NO", "ONE")
                old.replicaof("127.0.0.1", port)
                proxy._server = ("127.0.0.1", port)
                moved = time.monotonic()
                served = await asyncio.to_thread(poll, lambda: serves(node, f"{moved}"), "a start is served", 15)
                log.info(f"served {time.monotonic() - moved:.1f} s after the failover")
                young = lambda: canary(node) < time.monotonic() - moved - 2  # noqa: E731
                await asyncio.to_thread(poll, young, "a task comes through", moved + 15 - time.monotonic(), every=0.2)
                log.info(f"consumed {time.monotonic() - moved:.1f} s after it")
                turned = ticked(new)
                await asyncio.to_thread(poll, lambda: ticked(new) > turned, "beat turns", 15)
                after = await call.look()
                same = ("status", "agentId", "agentPid", "takeovers", "replacements")
                assert {name: after[name] for name in same} == {name: before[name] for name in same}
            await asyncio.to_thread(node.end, served)
            assert {name: node.program(name) for name in programs} == programs, "a program was restarted"
            # Back to the first server, which the other tests use.
            old.replicaof("NO", "ONE")
            new.replicaof("127.0.0.1", first)
            proxy._server = ("127.0.0.1", first)
            await asyncio.to_thread(agrees, node, 30)
    finally:
        stop(valkey)


def ticked(raw: "redis.Redis") -> float:
    return float(raw.hget("beat:ticks", "beat") or 0)


def serves(node: Node, user: str) -> str:
    """Start a session on the empty pool, like a user who retries; returns its id if it got an agent, otherwise ''."""
    answer = node.http.post("/api/session/start", json={"userId": user})
    if not answer.is_success:
        return ""
    session_id = str(answer.json()["sessionId"])
    left_starting = lambda: (state := node.session(session_id).get("status")) != "starting" and state  # noqa: E731
    status = poll(left_starting, "the session has an agent or has ended", 30)
    return session_id if status in {"ready", "active"} else ""


def canary(node: Node) -> float:
    """Return the age of the last canary task that was done, in seconds."""
    answer = node.http.get("/api/health", headers=node.admin)
    ages = [float(fields["canaryAge"]) for fields in answer.json().get("nodes", {}).values()]
    return min(ages, default=float("inf"))
