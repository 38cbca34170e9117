"""The agent host on its own: real forks, real execs, real deaths."""

import asyncio
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.errors import HostUnavailable, SpawnFailed
from orchestrator.models import new_id
from orchestrator.node.client import HostClient
from orchestrator.node.process import ProcessId, machine_boot_id
from orchestrator.node.protocol import Death
from tests.support.node import REPOSITORY
from tests.support.processes import alive, poll, stop

AGENT = """
import os, sys, time, signal, subprocess
async def entrypoint(ctx): ...
"""


class Host:
    """A host process and one client of it."""

    def __init__(self, run_dir: Path, **settings: str) -> None:
        self.run_dir = run_dir
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "RUN_DIR": str(run_dir), "NODE_ID": "n",
            "PYTHONPATH": str(REPOSITORY), "STOP_GRACE_SECONDS": "1", **settings,
        }  # fmt: skip
        self.process = self._start()
        self.deaths: asyncio.Queue[Death] = asyncio.Queue()
        self.client: HostClient

    def _start(self) -> "subprocess.Popen[bytes]":
        with (self.run_dir / "host.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "orchestrator.node.host"], env=self.environment, stdout=log, stderr=log,
                cwd=self.run_dir,
            )  # fmt: skip

    async def connect(self) -> "Host":
        async with asyncio.timeout(30):
            while True:
                try:
                    self.client = await HostClient.connect(self.run_dir / "host.sock", self._died)
                    await self.client.hello()
                    return self
                except HostUnavailable:
                    assert self.process.poll() is None, (self.run_dir / "host.log").read_text()
                    await asyncio.sleep(0.02)

    async def _died(self, death: Death) -> None:
        self.deaths.put_nowait(death)

    async def death(self) -> Death:
        async with asyncio.timeout(20):
            return await self.deaths.get()

    async def restart(self) -> None:
        """Kill it as a crash would, and start the next one."""
        self.process.kill()
        self.process.wait()
        await self.client.close()
        self.process = self._start()
        await self.connect()

    def log(self, agent_id: str) -> str:
        return (self.run_dir / "agents" / f"{agent_id}.log").read_text()


@pytest.fixture
async def shell(short_folder: Path) -> AsyncIterator[Host]:
    """A host whose agents are what a shell script says in AGENT_ID's environment."""
    run_dir = short_folder / new_id("h")[:10]
    run_dir.mkdir()
    (run_dir / "agent.py").write_text(
        "import os, signal, subprocess, sys, time\n"
        "agent = os.environ['AGENT_ID']\n"
        "print('started', flush=True)\n"
        "if 'stubborn' in agent: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if 'parent' in agent: print(subprocess.Popen(['sleep', '1000']).pid, flush=True)\n"
        "if 'exit' in agent: sys.exit(7)\n"
        "if 'crash' in agent: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "if 'flood' in agent:\n"
        "    while True: print('x' * 1000)\n"
        "print('environment', sorted(os.environ), flush=True)\n"
        "signal.pause()\n"
    )
    host = Host(
        run_dir, AGENT_COMMAND=f"{sys.executable} {run_dir}/agent.py", ADMIN_TOKEN="canary", AGENT_LOG_BYTES="65536"
    )
    yield await host.connect()
    living, _ = await host.client.hello()
    await host.client.close()
    stop(host.process)
    poll(lambda: not [one for one in living if alive(one.pid)], "every agent is gone with its host")


async def test_it_starts_reaps_and_tells_the_exit_code(shell: Host) -> None:
    process = await shell.client.spawn("exit_1")
    assert process.boot_id == machine_boot_id()
    death = await shell.death()
    assert (death.agent_id, death.pid, death.exit_code, death.signal) == ("exit_1", process.pid, 7, None)
    assert death.cause == "exited with code 7"
    assert ProcessId.of(process.pid) is None, "it is reaped, not a zombie"
    assert not Path(f"/proc/{process.pid}").exists()
    await shell.client.spawn("crash_1")
    death = await shell.death()
    assert (death.exit_code, death.signal, death.cause) == (None, signal.SIGSEGV, "killed by signal 11")
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
    assert not list((shell.run_dir / "agents").iterdir()), "nothing is left of it"


async def test_the_next_host_finds_the_agents_of_a_killed_one(shell: Host) -> None:
    first, second = [await shell.client.spawn(name) for name in ("one", "two")]
    await shell.restart()
    living, _ = await shell.client.hello()
    assert {(one.agent_id, one.pid, one.start_ticks) for one in living} == {
        (one.agent_id, one.pid, one.start_ticks) for one in (first, second)
    }
    os.kill(first.pid, signal.SIGKILL)
    death = await shell.death()
    assert (death.agent_id, death.exit_code) == ("one", None), "seen at once, though not its child"
    assert death.cause == "process gone, exit code unknown"
    assert await shell.client.stop("two", 5)
    assert (await shell.death()).stopped


async def test_a_recycled_pid_is_never_touched(shell: Host) -> None:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
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
        stranger.kill()


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


async def test_what_an_agent_sees(shell: Host) -> None:
    process = await shell.client.spawn("curious")
    poll(lambda: "environment" in shell.log("curious"), "it has spoken")
    seen = shell.log("curious")
    assert "AGENT_ID" in seen
    assert "ADMIN_TOKEN" not in seen
    assert os.getsid(process.pid) == process.pid, "a session of its own: signals for the host do not reach it"
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


async def test_a_command_that_is_not_there_is_an_error(short_folder: Path) -> None:
    run_dir = short_folder / "nocmd"
    run_dir.mkdir()
    host = await Host(run_dir, AGENT_COMMAND="/no/such/program").connect()
    with pytest.raises(SpawnFailed, match="cannot start the agent process"):
        await host.client.spawn("a")
    assert (await host.client.hello()) == ([], [])
    assert not list((run_dir / "agents").iterdir())
    await host.client.close()
    stop(host.process)


async def test_a_flood_fills_no_disk(shell: Host) -> None:
    await shell.client.spawn("flood")
    path = shell.run_dir / "agents" / "flood.log"
    sizes = []
    # Cut at least twice, and it goes on writing: the file shrinks while the agent lives.
    poll(
        lambda: sizes.append(path.stat().st_size) or sum(b < a for a, b in itertools.pairwise(sizes)) >= 2,
        "cut",
    )
    assert await shell.client.stop("flood", 0)


async def test_its_socket_is_for_its_user_only(shell: Host) -> None:
    mode = (shell.run_dir / "host.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize("method", ["fork", "exec"])
async def test_fork_and_exec_keep_the_same_contract(short_folder: Path, valkey_url: str, method: str) -> None:
    """Without a record in Redis an agent cannot say that it is ready, and ends: the same way either way."""
    run_dir = short_folder / method
    run_dir.mkdir()
    settings = {"REDIS_URL": valkey_url, "LIVEKIT_URL": "ws://127.0.0.1:1", "AGENT_MODULE": "agents.echo"}
    host = await Host(run_dir, AGENT_START_METHOD=method, **settings).connect()
    process = await host.client.spawn("prewarm_" + "0" * 32)
    parent = ProcessId.of(host.process.pid)
    assert parent is not None
    death = await host.death()
    assert (death.exit_code, death.pid) == (1, process.pid)
    assert "IllegalMove" in host.log(death.agent_id)
    assert len(os.listdir(f"/proc/{parent.pid}/task")) == 1, "the host still has one thread"
    await host.client.close()
    stop(host.process)


async def test_a_module_with_threads_is_refused_before_it_can_harm(short_folder: Path) -> None:
    run_dir = short_folder / "threads"
    run_dir.mkdir()
    (run_dir / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "async def entrypoint(ctx): ...\n"
    )
    host = Host(run_dir, AGENT_MODULE="threaded")
    host.environment["PYTHONPATH"] += f":{run_dir}"
    assert stop(host.process) is not None
    host.process = host._start()
    assert host.process.wait(30) == 1
    assert "starts 1 thread(s) when it is imported" in (run_dir / "host.log").read_text()
    assert "AGENT_START_METHOD=exec" in (run_dir / "host.log").read_text()
