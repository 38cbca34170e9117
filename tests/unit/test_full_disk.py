"""The disk of RUN_DIR is full: the agent host and its agents keep running, and deaths are reported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import SpawnFailed
from orchestrator.settings import Settings
from orchestrator.worker.headroom import Headroom
from tests.support.disk import full_disk
from tests.support.host import exec_host
from tests.support.processes import alive

pytestmark = pytest.mark.thorough


async def test_the_host_reports_deaths_and_refuses_spawns_with_the_cause(short_folder: Path) -> None:
    run_dir = short_folder / "disk"
    run_dir.mkdir()
    with full_disk(run_dir, "2M") as fill:
        host = await exec_host(run_dir, ["sleep", "1000"]).connect()
        try:
            process = await host.client.spawn("one")
            other = await host.client.spawn("two")
            ballast = fill()
            os.kill(process.pid, signal.SIGKILL)
            death = await host.death()
            assert (death.agent_id, death.signal) == ("one", signal.SIGKILL)
            with pytest.raises(SpawnFailed):
                await host.client.spawn("three")
            await host.client.acknowledge("one")
            agents, deaths = await host.client.hello()
            assert [agent.agent_id for agent in agents] == ["two"]
            assert [death.agent_id for death in deaths if death.agent_id != "three"] == []
            assert alive(other.pid)
            ballast.unlink()
            await host.client.spawn("four")
            assert host.process.poll() is None
        finally:
            await host.end()


def test_a_node_with_a_full_disk_boots_no_agent(tmp_path: Path) -> None:
    def shortage() -> str:
        settings = Settings(run_dir=tmp_path, redis_url="redis://x", memory_headroom_mb=0)
        return Headroom(settings).shortage

    with full_disk(tmp_path, "4M") as fill:
        assert shortage() == ""
        ballast = fill()
        assert shortage() == f"the disk of RUN_DIR={tmp_path} is full: 0 KiB are free"
        ballast.unlink()
        assert shortage() == ""


def test_an_agent_that_prints_keeps_running(tmp_path: Path) -> None:
    script = (
        "import logging, sys; from orchestrator.logs import never_fail_to_print; never_fail_to_print()\n"
        "logging.basicConfig(stream=sys.stderr)\n"
        "for number in range(1000): print('x' * 100, flush=True); logging.error('y' * 100)\n"
        "print('no end'); sys.stdout.writelines(['z']); open(sys.argv[1], 'w').write('went on')\n"
    )
    mark = tmp_path / "mark"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", script, mark], stdout=full, stderr=full, check=False)
    assert mark.read_text() == "went on"
    assert done.returncode in {0, 120}, "120: Python's own last flush"
