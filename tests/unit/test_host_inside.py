"""Situations in the agent host that tests cannot cause from outside: between two lines, or on system errors."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.host.children import CHECK_SECONDS, FLOOD_CHECK_SECONDS, SCAN_SECONDS, Child, Children
from orchestrator.host.host import AgentHost
from orchestrator.host.protocol import Death, Process
from orchestrator.host.spawn import process_of
from orchestrator.host.state_dir import AgentFolder
from orchestrator.machine.process import ProcessId, machine_boot_id
from orchestrator.models import new_id
from orchestrator.settings import NodeSettings
from tests.support.processes import sleeper

_CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@pytest.fixture
def settings(short_folder: Path) -> NodeSettings:
    return NodeSettings(run_dir=short_folder / os.urandom(4).hex(), agent_start_method="exec")


@pytest.fixture
def folder(settings: NodeSettings) -> AgentFolder:
    return AgentFolder(settings.agents_dir)


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Restore the signal handling that a host changes in its process."""
    handlers = {number: signal.getsignal(number) for number in _CAUGHT}
    mask, wakeup = signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(wakeup)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture
def stranger() -> Iterator[Process]:
    with sleeper() as process:
        identity = ProcessId.of(process.pid)
        assert identity is not None
        yield Process("one", process.pid, identity.start_ticks, machine_boot_id())


@pytest.mark.thorough
def test_a_start_that_fails_does_not_forget_the_process_that_was_first(
    settings: NodeSettings, folder: AgentFolder, stranger: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = AgentHost(settings)

    def lose(*_: object) -> int:
        folder.claim(stranger)
        raise subprocess.SubprocessError("Exception occurred in preexec_fn.")

    monkeypatch.setattr("orchestrator.host.launcher.start_by_exec", lose)
    with pytest.raises(OrchestratorError, match="cannot start"):
        host.spawn("one")
    assert folder.read("one") == stranger


@pytest.mark.thorough
def test_a_child_that_has_not_yet_recorded_itself_is_known_to_the_next_image(
    settings: NodeSettings, folder: AgentFolder, stranger: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = AgentHost(settings)
    host._children.living["one"] = Child(stranger, own=True)
    host._server.open()
    recorded = []

    def refuse(*_: object) -> NoReturn:
        recorded.append(folder.read("one"))
        raise OSError("no such interpreter")

    monkeypatch.setattr(os, "execve", refuse)
    host._load_new_code()
    assert recorded == [stranger]
    assert settings.host_socket.is_socket(), "the old image listens again"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGTERM, signal.SIGINT}
    host._server.close()


def test_a_host_that_was_told_to_stop_does_not_begin_anew(
    settings: NodeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = AgentHost(settings)
    host._server.open()
    done: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *_: done.append(1))
    host._request_stop()
    host._load_new_code()
    assert not done
    host._server.close()


def test_half_written_records_of_long_ago_are_removed(folder: AgentFolder, settings: NodeSettings) -> None:
    old, new = (settings.agents_dir / f"one.{pid}.tmp" for pid in (1, 2))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, time.time() - 3600))
    folder.tidy()
    assert [path.name for path in settings.agents_dir.iterdir()] == [new.name]


def test_a_claim_stands_against_its_own_repetition_only(folder: AgentFolder) -> None:
    process = Process("one", 10, 20, "boot")
    folder.claim(process)
    folder.claim(process)
    with pytest.raises(FileExistsError):
        folder.claim(Process("one", 11, 20, "boot"))
    death = Death("one", 10, 20, "boot", exit_code=7)
    folder.write(death)
    assert folder.read("one") == death
    assert list(folder.records({"one"})) == []
    assert list(folder.records()) == [death]


def test_a_flood_is_watched_more_closely(settings: NodeSettings, folder: AgentFolder) -> None:
    """With four checks a second a fast disk would take a hundred megabytes between two checks."""
    limit = 65_536
    with selectors.DefaultSelector() as selector:
        children = Children(folder, selector, lambda _: None, {})
        children.living["one"] = Child(process_of("one", os.getpid()), own=True)
        with (settings.agents_dir / "one.log").open("ab", buffering=0) as log:
            for now, written, pause in (
                (10.0, 100, CHECK_SECONDS),
                (20.0, limit // 9, FLOOD_CHECK_SECONDS),
                (30.0, 100, CHECK_SECONDS),
            ):
                log.write(b"x" * written)
                children.check(now, limit)
                assert children.next_check == now + pause


@pytest.mark.usefixtures("own_signals")
def test_a_host_without_agents_sleeps_from_scan_to_scan(
    settings: NodeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's real loop and signals, with a clock that only its sleep advances."""
    host, now = AgentHost(settings), [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("orchestrator.host.host.time", clock)
    monkeypatch.setattr("orchestrator.host.children.time", clock)
    agent_id, wait = new_id("prewarm"), host._selector.select
    slept: list[float | None] = []
    woken: list[int] = []

    def select(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        slept.append(timeout)
        first = len(slept) == 1
        if first:  # while an agent is alive, its exit wakes the host
            pid = os.posix_spawn("/bin/true", ["true"], {})
            host._children.living[agent_id] = Child(process_of(agent_id, pid), own=True)
        ready = wait(10 if first else 0)
        if first:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        else:
            now[0] += timeout or 0
        woken.append(len(ready))
        if len(slept) == 6:
            host._request_stop()
        return ready

    monkeypatch.setattr(host._selector, "select", select)
    host.run()
    host._selector.close()
    for end in host._wake:
        end.close()
    assert list(host._children.deaths) == [agent_id]
    assert slept == [SCAN_SECONDS] * 6
    assert woken == [1, 0, 0, 0, 0, 0], "nothing else wakes it"
