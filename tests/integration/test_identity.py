"""The identity of an agent: the process that the agent host started, or a descendant of it, behind any wrapper that
starts the interpreter."""

import asyncio
import json
import os
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest
import redis

from orchestrator.errors import NotTheAgent
from orchestrator.machine.process import may_live
from orchestrator.models import new_id
from orchestrator.pool.assignment import pass_over_the_dead
from orchestrator.store import Store
from orchestrator.worker.examine import examine
from tests.support.agent_link import AgentLink
from tests.support.host import HOSTS, Host, exec_host
from tests.support.node import REPOSITORY
from tests.support.pool import assign
from tests.support.processes import alive, marked, poll
from tests.support.relay import relaying

pytestmark = pytest.mark.thorough

PROGRAM = """
import sys
sys.path.insert(0, {repository!r})
from agent_runtime import runtime
from orchestrator.machine.ending import end_after
ballast = b"x" * {ballast}
print("program", flush=True)
end_after(runtime.main)
"""
PYTHON = f"{sys.executable} program.py"
#: Wrappers between the agent host and the program: a command line, and the files that it needs.
WRAPPERS = {
    "nothing": (PYTHON, {}),
    "a shell script": ("sh wrapper.sh", {"wrapper.sh": f"{PYTHON}\nexit $?\n"}),
    "a shell with job control": ("bash wrapper.sh", {"wrapper.sh": f"set -m\n{PYTHON}\nexit $?\n"}),
    "a Python program": (
        f"{sys.executable} wrapper.py",
        {"wrapper.py": f"import subprocess, sys\nsys.exit(subprocess.run({PYTHON.split()!r}).returncode)\n"},
    ),
    "two of them": (
        "sh outer.sh",
        {
            "outer.sh": f"{sys.executable} wrapper.py\nexit $?\n",
            "wrapper.py": f"import subprocess, sys\nsys.exit(subprocess.run({PYTHON.split()!r}).returncode)\n",
        },
    ),
    "a session of its own": ("sh wrapper.sh", {"wrapper.sh": f"setsid --wait {PYTHON}\nexit $?\n"}),
}
#: A living process with AGENT_ID whose parent is not a process of the host.
RUNAWAY = ("sh wrapper.sh", {"wrapper.sh": f"setsid -f {PYTHON}\nsleep 1000\n"})


#: The port of a LiveKit that does not answer: an agent with a session keeps joining until the end of the test.
SILENT: list[int] = []


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        SILENT[:] = [listening.getsockname()[1]]
        yield


#: The relays of the hosts.
RELAYS: list[AsyncExitStack] = []


async def _host(folder: Path, url: str, wrapper: tuple[str, dict[str, str]], ballast: int = 0) -> Host:
    run_dir = folder / new_id("w")[:10]
    run_dir.mkdir()
    (run_dir / "program.py").write_text(PROGRAM.format(repository=str(REPOSITORY), ballast=ballast))
    for name, text in wrapper[1].items():
        (run_dir / name).write_text(text)
    await RELAYS[0].enter_async_context(relaying(run_dir, url))
    (run_dir / "idle.py").write_text("async def entrypoint(ctx): ...\n")
    settings = {
        "AGENT_MODULE": "idle.py",
        "LIVEKIT_URL": f"ws://127.0.0.1:{SILENT[0]}",
        "HEARTBEAT_SECONDS": "0.2",
    }
    return await exec_host(run_dir, shlex.split(wrapper[0]), **settings).connect()


@pytest.fixture
async def hosts() -> AsyncIterator[list[Host]]:
    made: list[Host] = []
    async with AsyncExitStack() as relays:
        RELAYS[:] = [relays]
        yield made
        for host in made:
            await host.end()
            # A killed process is listed until the kernel has removed it.
            poll(lambda: not marked("RUN_DIR", str(host.run_dir)), "no process of it is left")  # noqa: B023
    HOSTS.clear()


async def boot(store: Store, host: Host, agent_id: str, *, told_late: bool = False) -> str | None:
    """Boot an agent as a node does; returns the decision about it. `told_late`: the agent reports before the node."""
    assert (await store.claim_agent(agent_id, "n"))[0] == "claimed"
    process = await host.client.spawn(agent_id)
    record = (process.pid, process.start_ticks, process.boot_id, "n")
    if not told_late:
        assert await store.record_spawn(agent_id, *record)
    outcome = await store.wait_boot(agent_id, 20)
    if told_late:
        assert await store.record_spawn(agent_id, *record)
    return outcome


def live_here(node: str, pid: int, start_ticks: int) -> bool:
    return may_live("n", node, pid, start_ticks)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("told_late", [False, True])
async def test_an_agent_behind_a_wrapper_becomes_warm_and_can_be_assigned(  # noqa: PLR0917 - fixtures
    store: Store,
    raw: redis.Redis,
    valkey_url: str,
    short_folder: Path,
    hosts: list[Host],
    wrapper: str,
    told_late: bool,
) -> None:
    host = await _host(short_folder, valkey_url, WRAPPERS[wrapper])
    hosts.append(host)
    await store.set_target(1)
    (agent_id,) = await store.reserve_agents([new_id("prewarm")], "n")
    assert await boot(store, host, agent_id, told_late=told_late) == "ready"
    # Complete, because the agent would otherwise fail immediately.
    payload = {"type": "assign", "room": "r", "token": "t", "userId": "ada", "metadata": {}}
    given = await assign(store, "ada", payload=json.dumps(payload))
    assert (given.outcome, given.agent_id) == ("assigned", agent_id)
    assert live_here(given.node, given.pid, given.start_ticks)
    process = await host.living(agent_id)
    assert process is not None
    assert (given.pid, given.start_ticks) == (process.pid, process.start_ticks), "the host's process is recorded"
    await pass_over_the_dead(store, given.session_id, live_here)
    session = await store.session(given.session_id)
    assert session is not None
    assert (session.agent_id, session.agent_pid) == (agent_id, process.pid), await store.events(session.id)
    assert raw.get(f"agent:{agent_id}:pid") == str(process.pid)
    assert not raw.hexists(f"agent:{agent_id}", "lineage")


@pytest.mark.parametrize("told_late", [False, True])
async def test_a_process_that_the_host_did_not_start_is_refused_with_the_reason(  # noqa: PLR0917 - fixtures
    store: Store, raw: redis.Redis, valkey_url: str, short_folder: Path, hosts: list[Host], told_late: bool
) -> None:
    host = await _host(short_folder, valkey_url, RUNAWAY)
    hosts.append(host)
    await store.set_target(1)
    (agent_id,) = await store.reserve_agents([new_id("prewarm")], "n")
    outcome = await boot(store, host, agent_id, told_late=told_late)
    reason = raw.hget(f"agent:{agent_id}", "cause") or raw.hget(f"agent:{agent_id}", "reason") or ""
    assert "is neither process" in reason
    assert reason.startswith("boot_error: process ")
    assert raw.get("pool:boot_error") == reason, "the operator can read the reason"
    assert raw.hget("pool:breaker", "failures") == "1"
    assert outcome == ("ready" if told_late else reason)
    assert raw.scard("pool:ready") == 0
    assert (await assign(store, "ada")).outcome == "starting"
    await host.client.stop(agent_id, 0.1)
    await host.death()


async def test_a_foreign_process_cannot_take_over_a_running_boot(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    agent_id = (await assign(store, "ada")).session_id
    await store.claim_agent(agent_id, "n")
    await store.record_spawn(agent_id, 100, 5, "boot", "n")
    stranger = AgentLink(valkey_url, agent_id)
    try:
        with pytest.raises(NotTheAgent, match=r"process 7 says .* neither process 100, .* nor a descendant"):
            await stranger.ready(7, 1000, 10, 1)
    finally:
        await stranger.close()
    assert raw.llen(f"agent:{agent_id}:inbox") == 0, "it does not get the room's token"
    assert (raw.hget(f"agent:{agent_id}", "state"), raw.hget(f"session:{agent_id}", "status")) == ("exited", "starting")


async def test_a_session_assigned_to_a_foreign_process_gets_another_agent(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    """The stranger reports before the node has recorded the process that it started."""
    agent_id = (await assign(store, "ada")).session_id
    await store.claim_agent(agent_id, "n")
    stranger = AgentLink(valkey_url, agent_id)
    assert await stranger.ready(7, 1) == agent_id
    await stranger.close()
    await store.record_spawn(agent_id, 100, 5, "boot", "n")
    assert raw.hget(f"agent:{agent_id}", "state") == "stopping"
    assert raw.hget(f"session:{agent_id}", "status") == "starting"
    assert raw.hget(f"session:{agent_id}", "cause").startswith("boot_error: process 7 says")


async def test_the_host_determines_the_pid_of_a_registered_agent(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    agent_id = new_id("prewarm")
    link = AgentLink(valkey_url, agent_id)
    assert await link.register(7, "n", {}, 100, 1) == "ready"
    await store.record_spawn(agent_id, 100, 5, "boot", "n")
    assert raw.hmget(f"agent:{agent_id}", "state", "pid", "startTicks") == ["ready", "100", "5"]
    await link.close()
    stranger = AgentLink(valkey_url, (other := new_id("prewarm")))
    assert await stranger.register(8, "n", {}, 1) == "ready"
    await store.record_spawn(other, 200, 5, "boot", "n")
    assert raw.hget(f"agent:{other}", "state") == "stopping"
    await stranger.close()


async def test_the_measured_memory_includes_all_processes_of_an_agent(
    store: Store, valkey_url: str, short_folder: Path, hosts: list[Host]
) -> None:
    host = await _host(short_folder, valkey_url, WRAPPERS["two of them"], ballast=300 << 20)
    hosts.append(host)
    await store.set_target(1)
    (agent_id,) = await store.reserve_agents([new_id("prewarm")], "n")
    assert await boot(store, host, agent_id) == "ready"
    agent = await store.agent(agent_id)
    assert agent is not None
    finding = examine(agent, memory_limit=1 << 40)
    assert finding.memory > 300 << 20
    fault = examine(agent, memory_limit=256 << 20).fault
    assert fault is not None
    assert "over the limit of 256 MiB" in fault.text


@pytest.mark.parametrize("adopted", [False, True])
async def test_a_child_keeps_its_grace_period_when_its_wrapper_exits_first(
    short_folder: Path, valkey_url: str, hosts: list[Host], adopted: bool
) -> None:
    leaves = (
        "import os, signal, sys, time\n"
        "def leave(*_):\n    print('leaves', flush=True); time.sleep(0.3); print('has left', flush=True); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, leave)\nprint('ready', os.getpid(), flush=True)\nwhile True: signal.pause()\n"
    )
    wrapper = ("sh wrapper.sh", {"wrapper.sh": f"{sys.executable} inner.py\nexit 0\n", "inner.py": leaves})
    host = await _host(short_folder, valkey_url, wrapper)
    hosts.append(host)
    await host.client.spawn("agent")
    poll(lambda: "ready" in host.log("agent"), "the program is up")
    inner = int(host.log("agent").split()[1])
    if adopted:
        await host.restart()
    assert await host.client.stop("agent", 15)
    death = await host.death()
    assert (death.stopped, death.killed) == (True, False)
    assert "has left" in host.log("agent")
    poll(lambda: not alive(inner), "the process is gone")


async def test_a_hung_program_behind_wrappers_is_killed(
    store: Store, valkey_url: str, short_folder: Path, hosts: list[Host]
) -> None:
    host = await _host(short_folder, valkey_url, WRAPPERS["two of them"])
    hosts.append(host)
    await store.set_target(1)
    (agent_id,) = await store.reserve_agents([new_id("prewarm")], "n")
    assert await boot(store, host, agent_id) == "ready"
    process = await host.living(agent_id)
    assert process is not None
    below = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    assert len(below) >= 3
    os.kill(below[-1], 19)  # SIGSTOP
    assert await host.client.stop(agent_id, 0.3)
    await host.death()
    await asyncio.to_thread(poll, lambda: not any(map(alive, below)), "all of it is gone")
