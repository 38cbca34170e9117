"""The agents' code in the host: it is reloaded while agents run, and cannot end the host."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from orchestrator.errors import HostUnavailable, SpawnFailed
from orchestrator.host.preload import TRIAL, PreloadCrashes
from tests.support.host import GOOD, Host, code_host
from tests.support.processes import alive, marked, on_disk, poll

pytestmark = pytest.mark.thorough

TWO = GOOD.format("two")
#: Sources of broken modules, and the error of each.
BROKEN = {
    "raises": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "is no Python": ("def entrypoint(:", "SyntaxError"),
    "has no entrypoint": ("", "AttributeError: module 'mine' has no attribute 'entrypoint'"),
    "fails to warm": (TWO + "\ndef prewarm(): raise OSError('no model')", "OSError: no model"),
    "exits": ("raise SystemExit(0)", "SystemExit"),
}
#: Modules that end the interpreter.
DEADLY = {
    "exits hard": ("import os; os._exit(0)", "exited with code 0"),
    "is killed": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by signal 11"),
}
THREADED = TWO + "\nimport threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"


@pytest.fixture
async def host(short_folder: Path) -> AsyncIterator[Host]:
    made = await code_host(short_folder).connect()
    yield made
    await made.end()


def write(host: Host, code: str) -> None:
    (host.run_dir / "code" / "mine.py").write_text(code)


async def reload(host: Host) -> None:
    """Reload, and connect to the new image of the host."""
    await host.client.reload()
    await host.client.closed()
    await host.client.close()
    await host.connect()


async def until(look: Callable[[], object]) -> None:
    """Wait for something while the client keeps listening."""
    async with asyncio.timeout(60):
        while not look():  # noqa: ASYNC110 - other processes do not set asyncio events
            await asyncio.sleep(0.01)


async def said(host: Host, agent_id: str) -> str:
    """Start an agent and return its output."""
    await host.client.spawn(agent_id)
    return poll(lambda: "\n" in host.log(agent_id) and host.log(agent_id).strip(), "it has spoken")  # type: ignore[no-any-return]


def is_forked(pid: int) -> bool:
    return b"orchestrator.host.host" in Path(f"/proc/{pid}/cmdline").read_bytes()


def trials(host: Host) -> list[int]:
    """Return the trial processes of this host."""
    found = []
    for pid in marked("RUN_DIR", str(host.run_dir)):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if pid != host.process.pid and b"--try-preload" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


# Reload


async def test_new_code_for_new_agents_under_the_same_pid(host: Host) -> None:
    old = await host.client.spawn("old")
    assert await said(host, "first") == "one"
    write(host, TWO)
    await reload(host)
    assert host.process.poll() is None, "the same process"
    assert await host.living("old") == old
    assert await said(host, "new") == "two"
    new = await host.living("new")
    assert new is not None
    assert is_forked(new.pid), "from preloaded code"
    assert host.log("old").strip() == "one"
    os.kill(old.pid, signal.SIGTERM)
    death = await host.death()
    assert (death.agent_id, death.signal) == ("old", signal.SIGTERM), "only a parent can read the signal"
    assert death.peak_memory_kib
    assert not Path(f"/proc/{old.pid}").exists()
    write(host, GOOD.format("three"))
    await reload(host)
    assert await said(host, "newest") == "three"
    assert len(os.listdir(f"/proc/{host.process.pid}/fd")) < 16, "earlier images have left no open files"


async def test_who_dies_while_the_host_changes_is_reaped_by_the_next(short_folder: Path) -> None:
    # It exits while no host listens: between two images of the host.
    code = GOOD.format("one") + "    while pathlib.Path('host.sock').exists(): time.sleep(0.001)\n    os._exit(5)\n"
    host = await code_host(short_folder, code).connect()
    process = await host.client.spawn("dying")
    write(host, TWO)
    await reload(host)
    async with asyncio.timeout(60):
        while not (deaths := (await host.client.hello())[1]):  # noqa: ASYNC110 - it may be reported before or after
            await asyncio.sleep(0.02)
    assert [(death.agent_id, death.exit_code) for death in deaths] == [("dying", 5)]
    assert not Path(f"/proc/{process.pid}").exists(), "no zombie"
    await host.end()


async def test_a_stop_that_is_under_way_is_brought_to_its_end(host: Host) -> None:
    assert await said(host, "stubborn") == "one"
    write(host, TWO)
    trial = asyncio.create_task(reload(host))
    await until((host.run_dir / "agents" / f"{TRIAL}.log").exists)
    assert await host.client.stop("stubborn", 3)
    await trial
    assert await host.living("stubborn")
    death = await host.death()
    assert (death.signal, death.stopped, death.killed) == (signal.SIGKILL, True, True)


@pytest.mark.parametrize("how", [*BROKEN, *DEADLY])
async def test_code_that_cannot_be_loaded_changes_nothing(host: Host, how: str) -> None:
    code, cause = (BROKEN | DEADLY)[how]
    write(host, code)
    with pytest.raises(SpawnFailed, match=cause):
        await host.client.reload()
    assert await said(host, "next") == "one"
    process = await host.living("next")
    assert process is not None
    assert is_forked(process.pid)


async def test_code_that_starts_a_thread_is_reloaded_and_started_by_exec(host: Host) -> None:
    write(host, THREADED)
    await reload(host)
    assert await said(host, "next") == "two"
    process = await host.living("next")
    assert process is not None
    assert not is_forked(process.pid)
    assert "starts 1 thread" in host.client.warning
    write(host, GOOD.format("three"))
    await reload(host)
    assert await said(host, "later") == "three"
    later = await host.living("later")
    assert later is not None
    assert is_forked(later.pid)
    assert not host.client.warning


async def test_the_host_serves_while_it_tries_and_a_second_reload_joins(host: Host) -> None:
    started = host.run_dir / "trials"
    write(host, TWO + f"\ndef prewarm():\n    open({str(started)!r}, 'a').write('x')\n    time.sleep(1)\n")
    first, second = [asyncio.create_task(host.client.reload()) for _ in range(2)]
    await until(started.exists)
    assert await said(host, "meanwhile") == "one"
    assert not first.done()
    await asyncio.gather(first, second)
    assert started.read_text() == "x", "one trial, then the host itself loads it"
    await host.client.closed()
    await host.client.close()
    await host.connect()
    assert started.read_text() == "xx"


def impatient_host(folder: Path, seconds: int) -> Host:
    """Start a host with a limit of so many seconds for trials."""
    host = code_host(folder)
    host.process.kill()
    host.process.wait()
    code = f"import orchestrator.host.preload as p, orchestrator.host.host as h; p.TRIAL_SECONDS = {seconds}; h.main()"
    host.command = [host.command[0], "-c", code]
    host.process = host.start()
    return host


async def test_a_trial_without_a_host_ends_by_itself(short_folder: Path) -> None:
    host = await impatient_host(short_folder, 1).connect()
    write(host, TWO + "\ndef prewarm():\n    signal.pause()\n")
    waiting = asyncio.create_task(host.client.reload())
    await until(lambda: trials(host))
    host.process.kill()
    host.process.wait()
    with pytest.raises(HostUnavailable):
        await waiting
    await host.client.close()
    await until(lambda: not trials(host))


async def test_a_trial_that_never_ends_is_killed(short_folder: Path) -> None:
    host = await impatient_host(short_folder, 10).connect()
    write(host, TWO + "\ndef prewarm():\n    print('warming', flush=True)\n    signal.pause()\n")
    with pytest.raises(SpawnFailed, match="did not finish within 10 s: warming"):
        await host.client.reload()
    await until(lambda: not trials(host))
    assert await said(host, "next") == "one"
    await host.end()


async def test_a_host_that_ends_takes_its_trial_along(short_folder: Path) -> None:
    host = await code_host(short_folder, AGENT_LOG_BYTES="65536").connect()
    write(host, TWO + "\ndef prewarm():\n    print('x' * 1_000_000, flush=True)\n    signal.pause()\n")
    waiting = asyncio.create_task(host.client.reload())
    output = host.run_dir / "agents" / f"{TRIAL}.log"
    await until(lambda: output.exists() and output.stat().st_size > 65_536)
    await until(lambda: on_disk(output) <= 65_536)
    host.process.terminate()
    with pytest.raises((SpawnFailed, HostUnavailable)):
        await waiting
    assert host.process.wait(60) == 0
    await until(lambda: not trials(host))
    await host.client.close()


async def test_a_host_that_dies_in_a_trial_is_unavailable(host: Host) -> None:
    write(host, TWO + "\ndef prewarm():\n    time.sleep(2)\n")
    waiting = asyncio.create_task(host.client.reload())
    await until(lambda: trials(host))
    host.process.kill()
    with pytest.raises(HostUnavailable):
        await waiting
    write(host, TWO)
    await host.restart()


async def test_a_stop_request_between_two_images_is_not_lost(short_folder: Path) -> None:
    host = await code_host(short_folder).connect()
    process = await host.client.spawn("agent")
    write(host, TWO + "\ndef prewarm():\n    time.sleep(1)\n")
    await host.client.reload()
    await host.client.closed()
    await host.client.close()
    host.process.terminate()
    assert host.process.wait(60) == 0
    assert not alive(process.pid), "no agent is left without a host"


async def test_where_nothing_is_preloaded_there_is_nothing_to_try(short_folder: Path) -> None:
    host = await code_host(short_folder, AGENT_START_METHOD="exec").connect()
    write(host, TWO)
    await host.client.reload()
    assert await said(host, "next") == "two"
    assert not (host.run_dir / "agents" / f"{TRIAL}.log").exists()
    await host.end()


# Modules that cannot be loaded at the host's start


@pytest.mark.parametrize("how", BROKEN)
async def test_a_broken_module_fails_in_its_agents_and_is_mended_by_a_reload(short_folder: Path, how: str) -> None:
    code, cause = BROKEN[how]
    host = await code_host(short_folder, code).connect()
    assert "mine cannot be preloaded" in host.said()
    assert cause.split(":")[0] in host.said(), "with its traceback"
    assert "by exec until a reload succeeds" in host.said()
    process = await host.client.spawn("agent")
    death = await host.death()
    assert (death.pid, death.exit_code) == (process.pid, 0 if how == "exits" else 1)
    if how != "exits":
        assert cause in host.log("agent")
    with pytest.raises(SpawnFailed, match=cause):
        await host.client.reload()
    write(host, TWO)
    await reload(host)
    assert await said(host, "mended") == "two"
    mended = await host.living("mended")
    assert mended is not None
    assert is_forked(mended.pid)
    await host.end()


async def test_half_a_module_leaves_no_thread_in_the_host(short_folder: Path) -> None:
    host = await code_host(short_folder, THREADED + "\nraise OSError").connect()
    assert len(os.listdir(f"/proc/{host.process.pid}/task")) == 1
    await host.end()


async def test_a_module_that_kills_the_host_is_not_loaded_a_third_time(short_folder: Path) -> None:
    code, _ = DEADLY["exits hard"]
    host = code_host(short_folder, code)
    assert host.process.wait(60) == 0
    host.process = host.start()
    assert host.process.wait(60) == 0
    host.process = host.start()
    await host.connect()
    assert "mine cannot be preloaded: it has killed the agent host more than once" in host.said()
    await host.client.spawn("agent")
    assert (await host.death()).exit_code == 0
    write(host, TWO)
    await reload(host)
    assert await said(host, "mended") == "two"
    mended = await host.living("mended")
    assert mended is not None
    assert is_forked(mended.pid)
    await host.end()


def test_deaths_are_counted_for_one_module_and_one_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def die(module: str) -> None:
        attempt = PreloadCrashes(tmp_path, module).counted()
        attempt.__enter__()
        kept.append(attempt)  # this block never ends normally: the host is dead

    die("a")
    assert not PreloadCrashes(tmp_path, "a").too_many
    die("a")
    assert PreloadCrashes(tmp_path, "a").too_many
    assert not PreloadCrashes(tmp_path, "b").too_many
    with monkeypatch.context() as patch:
        patch.setattr(os, "getppid", lambda: 1)
        assert not PreloadCrashes(tmp_path, "a").too_many, "the module may be fixed when the node starts again"
    (tmp_path / "preload-deaths").write_text("rubbish")
    assert not PreloadCrashes(tmp_path, "a").too_many
    (tmp_path / "preload-deaths").write_text(json.dumps(3))
    assert not PreloadCrashes(tmp_path, "a").too_many
    die("a")
    with pytest.raises(OSError, match="no model"), PreloadCrashes(tmp_path, "a").counted():
        raise OSError("no model")
    assert not list(tmp_path.iterdir()), "a module that raises does not kill the host"


async def test_a_module_that_hangs_while_it_is_loaded_does_not_hang_the_host_for_ever(short_folder: Path) -> None:
    """The host dies, logs where, and at its third start does not load the module itself."""
    hangs = TWO + "\ndef prewarm():\n    signal.pause()\n"
    # Deaths are counted per parent process, which is this test.
    host = code_host(short_folder, hangs, PRELOAD_SECONDS="0.5")
    for _ in range(2):
        assert await asyncio.to_thread(host.process.wait, 60) == -signal.SIGALRM
        host.process = host.start()
    await host.connect()
    said = host.said()
    assert said.count("in prewarm") == 2, "its log has the place where it hangs"
    assert "it has killed the agent host more than once" in said
    process = await host.client.spawn("by_exec")
    assert not is_forked(process.pid)
    await host.end()
