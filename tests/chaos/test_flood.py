"""Agents that flood their log, ignore SIGTERM, or whose pid belongs to another process; duplicate spawn tasks."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from typing import Any

import pytest

from orchestrator.call.caller import Call
from orchestrator.host.protocol import Process, encode
from orchestrator.machine.process import ProcessId, machine_boot_id
from orchestrator.models import new_id
from orchestrator.task_queue.app import SPAWN_AGENT, Publisher
from tests.support.chaos import cpu_seconds, descendants, zombies
from tests.support.ear import Ear
from tests.support.hurt import connected, talking
from tests.support.node import Node
from tests.support.processes import alive, on_disk, poll
from tests.support.sampler import Sampler

LOG_BYTES, LINES, LINE = 1_000_000, 200, 4_000
MEGABYTES, SECONDS = 100, 10
SETTINGS = {
    "AGENT_MODULE": "tests.support.agents", "POOL_TARGET": 2, "AGENT_LOG_BYTES": LOG_BYTES, "LOG_LINES": LINES,
    "USER_JOIN_SECONDS": 600, "BOOT_TIMEOUT_SECONDS": 10,
}  # fmt: skip
#: Characters that a terminal or a reader of lines would interpret, except the tab.
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


@pytest.mark.timeout(180)
async def test_a_flood_of_output_is_bounded_and_other_calls_are_unaffected(echo: Node) -> None:
    quiet = await talking(echo, "quiet", echo=True)
    loud: Call | None = None
    try:
        amount: dict[str, Any] = {"megabytes": MEGABYTES, "seconds": SECONDS}
        control = {name: echo.program(name) or 0 for name in ("worker", "host", "api", "valkey")}
        before = {name: cpu_seconds(pid) for name, pid in control.items()}
        began = time.monotonic()
        loud = await talking(echo, "loud", do="noise", echo=True, **amount)
        agent_id = (await loud.look())["agentId"]
        file = echo.run_dir / "agents" / f"{agent_id}.log"
        name = f"agent:{agent_id}:logs"
        with connected(echo) as raw:
            size = Sampler(lambda: on_disk(file), 0.01)
            length = Sampler(lambda: (int(raw.llen(name)), int(raw.memory_usage(name) or 0)), 0.1)
            with size, length:
                async with Ear(quiet) as ear, Ear(loud) as own:
                    await asyncio.to_thread(_over, echo, loud.session_id)
            took = time.monotonic() - began
            used = {each: (cpu_seconds(pid) - before[each]) / took for each, pid in control.items()}
            shares = ", ".join(f"{each} {share:.0%}" for each, share in used.items())
            print(  # noqa: T201
                f"{MEGABYTES} MB in {took:.1f} s; of one core: {shares}; "
                f"log file at most {max(size.values) / 1e6:.2f} MB; "
                f"Redis list at most {max(lines for lines, _ in length.values)} lines, "
                f"{max(memory for _, memory in length.values) / 1e6:.2f} MB; "
                f"silence beside it {ear.silence:.2f} s, its own {own.silence:.2f} s"
            )
            kept = raw.lrange(name, 0, -1)
        # The file grows between two checks of the host: by 0.2 MB on an idle machine, by more when the host must wait.
        assert max(size.values) < LOG_BYTES + 2e6 * MEGABYTES / SECONDS, f"{max(size.values) / 1e6:.1f} MB"
        assert max(lines for lines, _ in length.values) <= LINES
        assert max(memory for _, memory in length.values) < LINES * LINE * 4 + 100_000
        assert max(map(len, kept)) <= LINE
        assert not [line for line in kept if CONTROL.search(line)]
        shown = echo.logs(loud.session_id)
        assert not [line for line in shown if CONTROL.search(line) or "\x1b" in line]
        assert any("are left out here" in line for line in shown)
        # Each line is one string of a JSON array, so a forged line is only one more string.
        forged = [line for line in shown if "forged" in line]
        assert forged == ['{"level":"error","message":"forged"}'], forged
        assert [line for line in shown if re.fullmatch("red +\ufffd31m +back", line)], shown[-5:]
        assert not await asyncio.to_thread(lambda: echo.health()["sessions"]["queued"])
    finally:
        for call in (quiet, loud):
            if call:
                await call.hang_up()
    await asyncio.to_thread(poll, lambda: echo.counts()["agents"] == 2, "only the pool is left", 60)


def _over(node: Node, session_id: str) -> None:
    poll(lambda: any("noise is over" in line for line in node.logs(session_id)), "the flood is over", 90)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("deed", ["deaf", "stopped", "family"])
async def test_an_agent_that_ignores_sigterm_is_killed_after_ten_seconds(echo: Node, deed: str) -> None:
    host = echo.program("host")
    assert host
    assert echo.process is not None
    call = Call(echo.url, deed, metadata={"do": deed}, patience=60)
    async with call:
        pid = (await call.look())["agentPid"]
        if deed == "stopped":
            await asyncio.to_thread(poll, lambda: echo.session(call.session_id)["status"] == "active", "it is active")
            os.kill(pid, signal.SIGSTOP)
        else:
            said = lambda: any(line == deed for line in echo.logs(call.session_id))  # noqa: E731
            await asyncio.to_thread(poll, said, "its deed is done")
        family = [pid, *descendants(pid)]
        if deed == "family":
            # Three of them are its descendants; the fourth has lost its parent.
            orphans = [each for each in descendants(echo.process.pid) if _group(each) == pid]
            family = sorted({*family, *orphans})
            assert len(family) >= 5, family
        began = time.monotonic()
        await asyncio.to_thread(echo.end, call.session_id)
        await asyncio.to_thread(poll, lambda: not any(alive(each) for each in family), f"all are gone: {family}", 30)
        took = time.monotonic() - began
        print(f"{deed}: {len(family)} processes gone {took:.1f} s after the stop")  # noqa: T201
    assert echo.session(call.session_id)["reason"] == "stopped by request"
    poll(lambda: not zombies([host, echo.process.pid]), "there are no zombies")
    poll(lambda: echo.counts()["pool"] == 2 == echo.counts()["agents"], "only the pool is left", 60)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def test_an_unrelated_process_with_an_agents_pid_is_never_signalled(echo: Node) -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    node_id, agent_id, session_agent = echo.environment["NODE_ID"], new_id("prewarm"), new_id("prewarm")
    identity = ProcessId.of(stranger.pid)
    assert identity
    wrong = identity.start_ticks - 1
    try:
        with connected(echo) as raw:
            # The records of a dead agent whose pid now belongs to another process: in Redis …
            for each, state in ((agent_id, "ready"), (session_agent, "running")):
                now = int(time.time() * 1000)
                fields: dict[str, Any] = {
                    "state": state, "node": node_id, "pid": stranger.pid, "startTicks": wrong,
                    "bootId": machine_boot_id(), "createdAt": now, "readyAt": now, "lastBeat": now + 3_600_000,
                }  # fmt: skip
                raw.hset(f"agent:{each}", mapping=fields)
                raw.sadd("agents", each)
            raw.sadd("pool:ready", agent_id)
            # … and in the agent host's folder.
            process = Process(session_agent, stranger.pid, wrong, machine_boot_id())
            path = echo.run_dir / "agents" / f"{session_agent}.json"
            path.with_suffix(".tmp").write_text(json.dumps({"kind": "Process", **encode(process)}))
            path.with_suffix(".tmp").rename(path)
            with contextlib.closing(Publisher(echo.redis_url)) as publisher:
                publisher.send("orchestrator.check_node", queue=f"node.{node_id}")
                publisher.send("orchestrator.stop_agent", agent_id, queue=f"node.{node_id}")
                publisher.send("orchestrator.stop_agent", session_agent, queue=f"node.{node_id}")
            # The agent is not assigned to a session either.
            for number in range(3):
                started = echo.begin(f"stranger{number}")
                found = poll(
                    lambda session_id=started["sessionId"]: (
                        (each := echo.session(session_id))["status"] in {"ready", "active"} and each
                    ),
                    "the session has an agent",
                )
                assert found["agentPid"] != stranger.pid
                echo.end(started["sessionId"])
            gone = lambda: not raw.sismember("agents", agent_id) and not raw.sismember("agents", session_agent)  # noqa: E731
            poll(gone, "both records are closed", 60)
            poll(lambda: not path.exists(), "the host has removed its record too", 60)
            states = {raw.hget(f"agent:{each}", "state") for each in (agent_id, session_agent)}
            assert states == {"exited"}
        assert stranger.poll() is None, "a process that is not an agent was signalled"
    finally:
        stranger.kill()
        stranger.wait()
    poll(lambda: echo.counts()["pool"] == 2 == echo.counts()["agents"], "the pool is full", 60)


@pytest.mark.timeout(180)
def test_a_repeated_spawn_task_starts_one_agent(echo: Node) -> None:
    echo.resize(0)
    publisher = Publisher(echo.redis_url)
    try:
        with connected(echo) as raw:
            poll(lambda: echo.counts()["agents"] == 0, "no agent is left", 60)
            before = int(raw.hget("pool:stats", "total_spawned") or 0)
            failed = echo.log("worker").count("spawn failed")
            with Sampler(lambda: echo.counts()["agents"], 0.05) as agents:
                started = echo.begin("delivered-often")
                session_id = started["sessionId"]
                assert started["status"] == "starting"
                for _ in range(4):  # while the first one runs
                    publisher.send(SPAWN_AGENT, session_id, task_id=session_id)
                ready = poll(lambda: (found := echo.session(session_id))["status"] == "ready" and found, "it is ready")
                for _ in range(2):  # and after it has ended
                    publisher.send(SPAWN_AGENT, session_id, task_id=session_id)
                poll(lambda: raw.llen("celery") == 0, "all tasks were taken")
                # A delivery that waits for the boot of another one is acknowledged at the end of its wait.
                poll(lambda: raw.hlen("celery:unacked") == 0, "all deliveries are acknowledged")
            assert max(agents.values) == 1
            assert int(raw.hget("pool:stats", "total_spawned") or 0) == before + 1
            after = echo.session(session_id)
            assert (after["status"], after["agentPid"]) == ("ready", ready["agentPid"])
            assert echo.log("worker").count("spawn failed") == failed
        echo.end(session_id)
    finally:
        publisher.close()
        echo.resize(2)
