"""The agent host alone: real forks, execs and deaths."""

import asyncio
import itertools
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex

import psutil
import pytest

from orchestrator.errors import HostUnavailable, SpawnFailed
from orchestrator.host.state_dir import AgentFolder
from orchestrator.machine.process import ProcessId, machine_boot_id
from orchestrator.models import new_id
from tests.support.host import GOOD, Host, code_host, exec_host
from tests.support.processes import alive, on_disk, poll, sleeper, stop
from tests.support.relay import relaying

pytestmark = pytest.mark.thorough


def shell_host(folder: Path, **settings: str) -> Host:
    """Start a host whose agents behave according to their ids."""
    run_dir = folder / new_id("h")[:10]
    run_dir.mkdir()
    (run_dir / "agent.py").write_text(
        "import itertools, os, signal, subprocess, sys, time\n"
        "agent = os.environ['AGENT_ID']\n"
        "print('started', flush=True)\n"
        "if 'stubborn' in agent: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if 'parent' in agent: print(subprocess.Popen(['sleep', '1000']).pid, flush=True)\n"
        "if 'runaway' in agent: print(subprocess.Popen(['setsid', '-f', 'sh', '-c', 'echo $$; exec sleep 1000']))\n"
        "if 'exit' in agent: sys.exit(7)\n"
        "if 'crash' in agent: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "if 'flood' in agent:\n"
        "    for number in itertools.count(): print('x' * 1000, number, flush=True)\n"
        "if 'burst' in agent: print('x' * 100_000_000 + '\\nthe end', flush=True)\n"
        "print('environment', sorted(os.environ), flush=True)\n"
        "signal.pause()\n"
    )
    argv = [sys.executable, f"{run_dir}/agent.py"]
    return exec_host(run_dir, argv, ADMIN_TOKEN="canary", AGENT_LOG_BYTES="65536", **settings)


@pytest.fixture
async def shell(short_folder: Path) -> AsyncIterator[Host]:
    host = await shell_host(short_folder).connect()
    yield host
    await host.end()


async def test_it_starts_reaps_and_tells_the_exit_code(shell: Host) -> None:
    process = await shell.client.spawn("exit_1")
    assert process.boot_id == machine_boot_id()
    death = await shell.death()
    assert (death.agent_id, death.pid, death.exit_code, death.signal) == ("exit_1", process.pid, 7, None)
    assert death.reason.text == "exited with code 7"
    assert ProcessId.of(process.pid) is None, "the agent is reaped, not a zombie"
    assert not Path(f"/proc/{process.pid}").exists()
    await shell.client.spawn("crash_1")
    death = await shell.death()
    assert (death.exit_code, death.signal, death.reason.text) == (None, signal.SIGSEGV, "killed by signal 11")
    assert death.peak_memory_kib
    assert death.peak_memory_kib > 1000


async def test_a_death_is_told_until_it_is_acknowledged(shell: Host) -> None:
    await shell.client.spawn("exit_2")
    await shell.death()
    await shell.restart()
    _, deaths = await shell.client.hello()
    assert [(death.agent_id, death.exit_code) for death in deaths] == [("exit_2", 7)]
    await shell.client.acknowledge("exit_2")
    assert (await shell.client.hello())[1] == []
    assert not list((shell.run_dir / "agents").iterdir()), "no process of it is left"


async def test_the_next_host_finds_the_agents_of_a_killed_one(shell: Host) -> None:
    first, second = [await shell.client.spawn(name) for name in ("one", "two")]
    await shell.restart()
    living, _ = await shell.client.hello()
    assert {(one.agent_id, one.pid, one.start_ticks) for one in living} == {
        (one.agent_id, one.pid, one.start_ticks) for one in (first, second)
    }
    os.kill(first.pid, signal.SIGKILL)
    death = await shell.death()
    assert (death.agent_id, death.exit_code) == ("one", None), "detected, though not its child"
    assert death.reason.code == "process_gone"
    assert await shell.client.stop("two", 5)
    assert (await shell.death()).stopped


async def test_a_host_that_is_restarted_alone_leaves_its_agents(shell: Host) -> None:
    """supervisord sends SIGHUP; a node that stops sends SIGTERM (see `Host.end`)."""
    first, second = [await shell.client.spawn(name) for name in ("one", "two")]
    shell.process.send_signal(signal.SIGHUP)
    assert shell.process.wait(60) == 0
    assert not (shell.run_dir / "host.sock").exists()
    assert alive(first.pid)
    assert alive(second.pid)
    await shell.client.close()
    shell.process = shell.start()
    await shell.connect()
    assert {one.pid for one in (await shell.client.hello())[0]} == {first.pid, second.pid}


async def test_who_is_told_to_stop_and_to_leave_stops(shell: Host) -> None:
    process = await shell.client.spawn("stubborn")
    poll(lambda: "environment" in shell.log("stubborn"), "it is up")
    shell.process.send_signal(signal.SIGTERM)
    shell.process.send_signal(signal.SIGHUP)
    await asyncio.to_thread(shell.process.wait, 60)
    assert not alive(process.pid)
    await shell.client.close()
    shell.process = shell.start()
    await shell.connect()


def faulty(folder: Path, method: str, faults: str) -> Host:
    """Start a host with faults, with either start method."""
    log = str(folder / new_id("f"))
    if method == "exec":
        return shell_host(folder, FAULT_LOG=log, FAULTS=faults)
    return code_host(folder, FAULT_LOG=log, FAULTS=faults)


@pytest.mark.parametrize("method", ["fork", "exec"])
async def test_when_memory_ends_the_kernel_takes_an_agent_before_its_host(short_folder: Path, method: str) -> None:
    host = await faulty(short_folder, method, "").connect()
    try:
        process = await host.client.spawn("large")

        def score(pid: int) -> int:
            return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

        own = score(host.process.pid)
        poll(lambda: score(process.pid) == min(1000, own + 300), "the agent has written its record")
        assert await host.client.stop("large", 5)
        assert (await host.death()).stopped
    finally:
        await host.end()


@pytest.mark.parametrize("method", ["fork", "exec"])
async def test_a_host_killed_at_the_fork_leaves_no_unknown_agent(short_folder: Path, method: str) -> None:
    host = await faulty(short_folder, method, "host.after_fork:kill").connect()
    with pytest.raises(HostUnavailable):
        await host.client.spawn("orphan")
    await host.restart()
    process = await host.adopted("orphan")
    assert alive(process.pid)
    assert (await host.client.spawn("orphan")) == process, "it is not started a second time"
    assert await host.client.stop("orphan", 5)
    assert (await host.death()).stopped
    await host.end()


@pytest.mark.parametrize("method", ["fork", "exec"])
async def test_a_child_that_was_not_registered_is_found(short_folder: Path, method: str) -> None:
    host = await faulty(short_folder, method, "host.after_fork:raise").connect()
    with pytest.raises(SpawnFailed, match="fault at"):
        await host.client.spawn("lost")
    process = await host.adopted("lost")
    if method == "exec":
        poll(lambda: "'FAULTS', 'FAULT_LOG'" in host.log("lost"), "faults happen in agents too")
    os.kill(process.pid, signal.SIGKILL)
    death = await host.death()
    assert (death.agent_id, death.signal) == ("lost", signal.SIGKILL), "it is still the host's child, so it is reaped"
    assert not Path(f"/proc/{process.pid}").exists()
    await host.end()


async def test_who_records_itself_late_is_adopted_or_dead(shell: Host) -> None:
    with sleeper() as late:
        identity = ProcessId.of(late.pid)
        assert identity is not None
        fields = {"pid": late.pid, "start_ticks": identity.start_ticks, "boot_id": machine_boot_id()}
        for name, ticks in (("late", 0), ("gone", 1)):
            record = {"kind": "Process", "agent_id": name, **fields, "start_ticks": identity.start_ticks + ticks}
            shell.record(name).write_text(json.dumps(record))
        assert (await shell.client.spawn("late")).pid == late.pid, "it is not started a second time"
        assert (await shell.death()).agent_id == "gone"
        late.kill()
        assert (await shell.death()).agent_id == "late"


async def test_the_second_process_of_an_agent_gives_up(shell: Host) -> None:
    """The record names the first process, which the host uses, so it reports no death of a living agent."""
    second = await shell.client.spawn("twin")
    with sleeper() as first:
        identity = ProcessId.of(first.pid)
        assert identity is not None
        fields = {"pid": first.pid, "start_ticks": identity.start_ticks, "boot_id": machine_boot_id()}
        shell.record("twin").write_text(json.dumps({"kind": "Process", "agent_id": "twin", **fields}))
        folder = AgentFolder(shell.run_dir / "agents")
        with pytest.raises(FileExistsError):
            folder.claim(second)
        assert not list((shell.run_dir / "agents").glob("*.tmp"))
        os.kill(second.pid, signal.SIGKILL)
        poll(lambda: not alive(second.pid), "the second one is gone")
        await shell.adopted("twin", first.pid)
        assert shell.deaths.empty()
        first.kill()
        assert (await shell.death()).pid == first.pid


async def test_a_recycled_pid_is_never_touched(shell: Host) -> None:
    with sleeper() as stranger:
        identity = ProcessId.of(stranger.pid)
        assert identity is not None
        record = {"kind": "Process", "agent_id": "old", "pid": stranger.pid, "start_ticks": identity.start_ticks - 1}
        await shell.client.spawn("other")
        (shell.run_dir / "agents" / "old.json").write_text(json.dumps(record | {"boot_id": machine_boot_id()}))
        await shell.restart()
        living, deaths = await shell.client.hello()
        assert [one.agent_id for one in living] == ["other"]
        assert [death.agent_id for death in deaths] == ["old"]
        assert not await shell.client.stop("old", 0)
        assert alive(stranger.pid)


async def test_stop_escalates_and_takes_grandchildren_along(shell: Host) -> None:
    process = await shell.client.spawn("stubborn_parent")
    lines = poll(lambda: len(found := shell.log("stubborn_parent").split()) >= 2 and found, "it has a child")
    grandchild = int(lines[1])
    assert await shell.client.stop("stubborn_parent", 0.3)
    death = await shell.death()
    assert (death.signal, death.killed, death.stopped) == (signal.SIGKILL, True, True)
    poll(lambda: not alive(grandchild), "the grandchild is gone")
    assert not alive(process.pid)


async def test_who_ends_by_itself_leaves_no_children_behind(shell: Host) -> None:
    await shell.client.spawn("parent_exit")
    assert (await shell.death()).exit_code == 7
    grandchild = int(shell.log("parent_exit").split()[1])
    poll(lambda: not alive(grandchild), "the grandchild is gone")


@pytest.mark.parametrize("with_its_host", [False, True])
async def test_who_sends_a_child_out_of_its_group_takes_it_along_all_the_same(shell: Host, with_its_host: bool) -> None:
    # Hosts of other test runs kill strays by the id of the agent.
    agent = f"runaway_{token_hex(4)}"
    await shell.client.spawn(agent)
    text = poll(lambda: [each for each in shell.log(agent).split() if each.isdigit()], "it has a child")
    child = int(text[0])
    assert os.getsid(child) == child, "it leads its own session and group"
    with sleeper() as other:
        if with_its_host:
            stop(shell.process)
            poll(lambda: not alive(child), "nothing is left of a host that has stopped", 5)
            await shell.client.close()
            shell.process = shell.start()
            await shell.connect()
        else:
            assert await shell.client.stop(agent, 5)
            await shell.death()
            poll(lambda: not alive(child), "the child is gone")
        assert alive(other.pid)


@pytest.mark.parametrize("how", ["stopped", "killed by a stranger", "dead before the next host"])
async def test_adopted_agents_leave_no_children_behind(shell: Host, how: str) -> None:
    process = await shell.client.spawn("parent_1")
    lines = poll(lambda: len(found := shell.log("parent_1").split()) >= 2 and found, "it has a child")
    grandchild = int(lines[1])
    if how == "dead before the next host":
        shell.process.kill()
        shell.process.wait()
        os.kill(process.pid, signal.SIGKILL)
        poll(lambda: not alive(process.pid), "it is dead")
        assert alive(grandchild)
    await shell.restart()
    if how == "stopped":
        assert await shell.client.stop("parent_1", 5)
    elif how == "killed by a stranger":
        os.kill(process.pid, signal.SIGKILL)
    poll(lambda: not alive(grandchild), "the grandchild is gone")
    if how != "dead before the next host":
        await shell.death()
    assert [one.agent_id for one in (await shell.client.hello())[1]] == ["parent_1"]


@pytest.mark.parametrize("adopted", [False, True])
async def test_who_stands_still_can_be_stopped(shell: Host, adopted: bool) -> None:
    process = await shell.client.spawn("still_parent")
    lines = poll(lambda: len(found := shell.log("still_parent").split()) >= 2 and found, "it has a child")
    if adopted:
        await shell.restart()
    os.killpg(process.pid, signal.SIGSTOP)
    # Of two pending signals the kernel delivers the one with the lower number first.
    poll(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "the agent is stopped")
    assert await shell.client.stop("still_parent", 0.2)
    assert (await shell.death()).killed
    poll(lambda: not alive(int(lines[1])), "its child is gone")


async def test_what_an_agent_sees(shell: Host) -> None:
    process = await shell.client.spawn("curious")
    poll(lambda: "environment" in shell.log("curious"), "it has spoken")
    seen = shell.log("curious")
    assert "AGENT_ID" in seen
    assert "ADMIN_TOKEN" not in seen
    assert os.getsid(process.pid) == process.pid, "it leads a session, so signals for the host's group do not reach it"
    assert {int(fd) for fd in os.listdir(f"/proc/{process.pid}/fd")} <= {0, 1, 2}


async def test_the_same_agent_is_started_once(shell: Host) -> None:
    first, again = [await shell.client.spawn("twin") for _ in range(2)]
    assert first == again


async def test_bad_requests_change_nothing(shell: Host) -> None:
    for name in ("../evil", "", "a b"):
        with pytest.raises(SpawnFailed, match="bad agent id"):
            await shell.client.spawn(name)
    assert not await shell.client.stop("nobody", 1)
    reader, writer = await asyncio.open_unix_connection(shell.run_dir / "host.sock")
    writer.write(b'garbage\n{"id": 1}\n{"id": 2, "op": "fly"}\n')
    answers = [json.loads(await reader.readline()) for _ in range(3)]
    assert [answer["id"] for answer in answers] == [None, 1, 2]
    assert all("malformed request" in answer["error"] for answer in answers)
    writer.close()
    assert (await shell.client.hello())[0] == []


async def test_an_agent_that_cannot_be_started_is_an_error(short_folder: Path) -> None:
    run_dir = short_folder / "nocmd"
    run_dir.mkdir()
    host = await exec_host(run_dir, ["sleep", "1000"]).connect()
    (run_dir / "agents").rmdir()
    with pytest.raises(SpawnFailed, match="cannot start the agent process"):
        await host.client.spawn("a")
    assert (await host.client.hello()) == ([], [])
    await host.client.close()
    stop(host.process)


async def test_a_flood_fills_no_disk(shell: Host) -> None:
    await shell.client.spawn("flood")
    path = shell.run_dir / "agents" / "flood.log"
    sizes = []
    # Truncated at least twice during the agent's life, as it keeps writing.
    poll(lambda: sizes.append(on_disk(path)) or sum(b < a for a, b in itertools.pairwise(sizes)) >= 2, "cut")
    # The newest output is always in the file.
    for _ in range(50):
        before = path.stat().st_size
        with path.open("rb") as file:
            file.seek(before - 8_000)
            lines = file.read(8_000).split(b"\n")[1:-1]
        numbers = [int(line.rpartition(b" ")[2]) for line in lines]
        assert numbers == list(range(numbers[0], numbers[0] + len(lines)))
        await asyncio.sleep(0.01)
    assert await shell.client.stop("flood", 0)


async def test_a_hundred_megabytes_in_one_line_are_gone_in_a_moment(shell: Host) -> None:
    process = await shell.client.spawn("burst")
    path = shell.run_dir / "agents" / "burst.log"

    def written() -> int:
        return int(Path(f"/proc/{process.pid}/io").read_text().partition("wchar: ")[2].split()[0])

    poll(lambda: written() > 100_000_000, "it has printed it all")
    poll(lambda: on_disk(path) <= 65_536, "the file is small")
    assert "the end" in shell.log("burst")[-5_000:]
    assert (await shell.client.hello())[0], "the host answers"


async def test_a_thousand_agents_leave_nothing_behind(short_folder: Path) -> None:
    host = await code_host(short_folder).connect()
    run_dir = host.run_dir
    fds = Path(f"/proc/{host.process.pid}/fd")
    died: dict[str, asyncio.Event] = {}

    async def one(agent_id: str) -> None:
        died[agent_id] = asyncio.Event()
        async with at_once:
            await host.client.spawn(agent_id)
            assert await host.client.stop(agent_id, 5)
            await died[agent_id].wait()
            await host.client.acknowledge(agent_id)

    async def watch() -> None:
        while True:
            died[(await host.deaths.get()).agent_id].set()

    at_once = asyncio.Semaphore(20)
    watching = asyncio.create_task(watch())
    await one("first")
    before = len(list(fds.iterdir()))
    async with asyncio.timeout(60):
        await asyncio.gather(*(one(f"agent{number}") for number in range(1000)))
    watching.cancel()
    assert psutil.Process(host.process.pid).children() == [], "there is not even a zombie"
    assert len(list(fds.iterdir())) == before
    assert await host.client.hello() == ([], [])
    assert not list((run_dir / "agents").iterdir())
    await host.end()


async def test_its_socket_is_for_its_user_only(shell: Host) -> None:
    mode = (shell.run_dir / "host.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize("method", ["fork", "exec"])
async def test_fork_and_exec_keep_the_same_contract(short_folder: Path, valkey_url: str, method: str) -> None:
    """Without a record in Redis an agent cannot report that it is ready, and exits: forked or started by exec."""
    run_dir = short_folder / method
    run_dir.mkdir()
    settings = {"LIVEKIT_URL": "ws://127.0.0.1:1", "AGENT_MODULE": "agents/echo.py"}
    host = await Host(run_dir, AGENT_START_METHOD=method, **settings).connect()
    async with relaying(run_dir, valkey_url):
        process = await host.client.spawn("prewarm_" + "0" * 32)
        parent = ProcessId.of(host.process.pid)
        assert parent is not None
        death = await host.death()
    assert (death.exit_code, death.pid) == (1, process.pid)
    assert "IllegalMove" in host.log(death.agent_id)
    assert len(os.listdir(f"/proc/{parent.pid}/task")) == 1, "the host still has one thread"
    await host.client.close()
    stop(host.process)


async def test_a_module_with_threads_is_never_forked_and_ends_no_node(short_folder: Path) -> None:
    threads = "\nimport threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    host = await code_host(short_folder, GOOD.format("one") + threads).connect()
    assert "mine cannot be preloaded: mine starts 1 thread(s) when it is imported" in host.client.warning
    assert "Agents are started by exec" in host.client.warning
    assert host.client.warning in host.said()
    assert len(os.listdir(f"/proc/{host.process.pid}/task")) == 1, "the host has one thread again"
    process = await host.client.spawn("agent")
    poll(lambda: "one" in host.log("agent"), "it works")
    assert b"orchestrator.host.host" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    await host.end()
