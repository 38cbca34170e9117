"""The drain program with a small real API."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.host.protocol import Death
from orchestrator.host.spawn import process_of
from orchestrator.host.state_dir import AgentFolder
from orchestrator.machine import shutdown_notice
from orchestrator.node import drain as program
from orchestrator.operations import kill_window
from orchestrator.settings import Settings
from tests.support.disk import full_disk
from tests.support.drain_api import DrainApi, asleep
from tests.support.processes import free_ports, poll, sleeper

pytestmark = pytest.mark.thorough

REPOSITORY = Path(__file__).resolve().parents[2]
POST = ("POST", "/api/nodes/n1/drain", "Bearer a-token-for-tests")
GET = ("GET", "/api/nodes/n1", "Bearer a-token-for-tests")


class VirtualTime:
    """Replaces the program's `time`: a pause takes no time, and runs the test's next step."""

    def __init__(self) -> None:
        self.now = 1000.0
        #: The steps, one for each pause.
        self.meanwhile: Iterator[None] = iter(())

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        next(self.meanwhile, None)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    found = VirtualTime()
    monkeypatch.setattr(program, "time", found)
    return found


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_DIR", str(tmp_path))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An agent of this node, the record of a dead one, and the record of one with an unrecorded death."""
    folder = AgentFolder(tmp_path / "agents")
    folder.write(Death("dead", 1, 1, "boot"))
    with sleeper() as gone:
        folder.write(process_of("gone", gone.pid))
    with sleeper() as process:
        folder.write(process_of("living", process.pid))
        yield process


def _drain(port: int, seconds: float = 20, goodbye: float = 5) -> float:
    """Drain, and return the seconds that it waited."""
    settings = Settings(
        node_id="n1", port=port, admin_token="a-token-for-tests", drain_seconds=seconds, goodbye_seconds=goodbye
    )
    with program.client(settings) as api, shutdown_notice.NoticeWriter(settings.run_dir) as speaker:
        started = program.time.monotonic()
        program.drain(settings, api, speaker)
        return program.time.monotonic() - started


def test_the_drain_waits_until_the_last_call_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with DrainApi(3, 2, 2, 1, 0) as api:
        assert _drain(api.port) == 4 * program.POLL
    assert api.asked == [POST, GET, GET, GET, GET]
    assert capsys.readouterr().out == "Draining: 3 calls have up to 20 s. Ctrl-C again stops now.\n"


def test_the_message_for_one_call_is_singular(capsys: pytest.CaptureFixture[str]) -> None:
    with DrainApi(1, 0) as api:
        _drain(api.port)
    assert "1 call has up to" in capsys.readouterr().out


def test_without_calls_the_drain_prints_nothing_and_does_not_wait(capsys: pytest.CaptureFixture[str]) -> None:
    with DrainApi(0) as api:
        assert _drain(api.port) == 0
    assert api.asked == [POST]
    assert not capsys.readouterr().out


def test_the_drain_waits_no_longer_than_the_goodbyes() -> None:
    with DrainApi(1) as api:
        assert _drain(api.port, 6) == 6 + kill_window.DRAIN_MARGIN


def test_zero_drain_seconds_cause_no_wait(capsys: pytest.CaptureFixture[str]) -> None:
    with DrainApi(3) as api:
        assert _drain(api.port, 0) == 0
    assert api.asked == [POST], "starts are refused nevertheless"
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (401, "the api answers 401 to POST /api/nodes/n1/drain"),
        (404, "the api answers 404 to POST /api/nodes/n1/drain"),
        (503, "the api answers 503 to POST /api/nodes/n1/drain"),
        ("many", "the answer to POST /api/nodes/n1/drain contains no number of sessions"),
        (None, "the api does not answer ("),
    ],
)
def test_running_agents_get_the_drain_time_when_the_api_fails(
    capsys: pytest.CaptureFixture[str],
    agent: subprocess.Popen[bytes],
    clock: VirtualTime,
    answer: int | str | None,
    why: str,
) -> None:
    def leave_after_two_pauses() -> Iterator[None]:
        yield
        agent.kill()
        agent.wait()

    with DrainApi(answer or 0) as api:
        if answer is None:
            api.close()
        assert _drain(api.port, 5) == 5 + kill_window.DRAIN_MARGIN
        out = capsys.readouterr().out
        assert out.startswith(f"Draining: {why}")
        assert ", so every live agent counts as a call. 1 call has up to 5 s. Ctrl-C again" in out
        assert _drain(api.port, 0) == 0, "without calls it does not wait for the API either"
        clock.meanwhile = leave_after_two_pauses()
        assert _drain(api.port) == 2 * program.POLL, "the last call has ended"


def test_without_agents_the_drain_does_not_wait(capsys: pytest.CaptureFixture[str]) -> None:
    assert _drain(free_ports()) == 0
    assert not capsys.readouterr().out


def test_agents_get_the_shutdown_notice_while_the_api_fails(
    tmp_path: Path, agent: subprocess.Popen[bytes], clock: VirtualTime
) -> None:
    began = clock.now

    def redis_comes_back(api: DrainApi) -> Iterator[None]:
        assert shutdown_notice.read(tmp_path) is None, "the API has just notified them itself"
        yield
        assert shutdown_notice.read(tmp_path) == shutdown_notice.Notice(began + 15, began + 20)
        api.answers[:] = [1]
        yield
        assert shutdown_notice.read(tmp_path) is None, "it notifies them again"
        # With its remaining time.
        assert api.asked[-1][:2] == ("POST", "/api/nodes/n1/drain?seconds=19.5")
        api.answers[:] = [0]
        yield
        assert api.asked[-1] == GET
        yield
        assert api.asked[-2:] == [GET, GET], "a Redis that has just restarted may not have every call yet"
        agent.kill()
        agent.wait()

    with DrainApi(2, 503) as api:
        clock.meanwhile = redis_comes_back(api)
        assert _drain(api.port) == 5 * program.POLL
    assert shutdown_notice.read(tmp_path) is None


def test_a_shutdown_notice_of_a_killed_node_is_ignored(tmp_path: Path) -> None:
    code = """if True:
        import sys, time, pathlib
        from orchestrator.machine import shutdown_notice
        speaker = shutdown_notice.NoticeWriter(pathlib.Path(sys.argv[1]))
        speaker.publish(shutdown_notice.Notice(1.0, 2.0))
        print("said", flush=True)
        time.sleep(1000)
    """
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "said\n"
        assert shutdown_notice.read(tmp_path) == shutdown_notice.Notice(1.0, 2.0)
        process.kill()
    assert shutdown_notice.read(tmp_path) is None
    with shutdown_notice.NoticeWriter(tmp_path):
        assert shutdown_notice.read(tmp_path) is None, "nor after the next one has begun"


def test_a_shutdown_notice_can_be_published_on_a_full_disk(tmp_path: Path) -> None:
    word = shutdown_notice.Notice(12345678.123456789, 12345688.123456789)
    (tmp_path / "full").mkdir()
    with full_disk(tmp_path / "full", "1M") as fill, shutdown_notice.NoticeWriter(tmp_path / "full") as speaker:
        fill()
        speaker.publish(word)
        assert shutdown_notice.read(tmp_path / "full") == word
        speaker.withdraw()
        assert shutdown_notice.read(tmp_path / "full") is None


# The program and its signals


@pytest.fixture
def api() -> Iterator[DrainApi]:
    with DrainApi(1) as found:
        yield found


@pytest.fixture
def process(api: DrainApi, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The program, asleep."""
    settings = {
        "NODE_ID": "n1",
        "RUN_DIR": str(tmp_path),
        "PORT": str(api.port),
        "ADMIN_TOKEN": "a-token-for-tests",
        "http_proxy": "http://127.0.0.1:9",
    }
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **settings}
    command = [sys.executable, "-m", "orchestrator.node.drain_at_stop"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as it:
        poll(lambda: asleep(it.pid), "it waits for its signal")
        yield it
        it.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_drain_waits_for_its_signal_and_ends_with_the_calls(
    api: DrainApi, process: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert not api.asked
    process.send_signal(number)
    poll(lambda: len(api.asked) > 2, "it has sent its request")
    assert api.asked[0] == POST
    assert process.poll() is None
    api.answers[:] = [0]
    out, _ = process.communicate(timeout=5)
    assert process.returncode == 0
    assert out == "Draining: 1 call has up to 30 s. Ctrl-C again stops now.\n"


def test_a_second_signal_ends_the_drain_immediately(api: DrainApi, process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    poll(lambda: api.asked, "it drains")
    process.send_signal(signal.SIGTERM)
    process.wait(60)
