"""The drain program against a small real api."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import kill_window
from orchestrator.cli import drain as program
from orchestrator.settings import Settings
from tests.support.drain_api import DrainApi, asleep
from tests.support.processes import free_ports, poll

REPOSITORY = Path(__file__).resolve().parents[2]
POST = ("POST", "/api/nodes/n1/drain", "Bearer a-token-for-tests")
GET = ("GET", "/api/nodes/n1", "Bearer a-token-for-tests")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "POLL", 0.02)
    monkeypatch.setattr(program, "SILENCE", 0.3)
    monkeypatch.setattr(kill_window, "DRAIN_MARGIN", 0.2)


def _drain(port: int, seconds: float = 20) -> float:
    """Drain, and return how long it took."""
    settings = Settings(node_id="n1", port=port, admin_token="a-token-for-tests", drain_seconds=seconds)
    with program.client(settings) as api:
        started = time.monotonic()
        program.drain(settings, api)
        return time.monotonic() - started


def test_it_waits_until_the_last_call_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    with DrainApi(3, 2, 2, 1, 0) as api:
        _drain(api.port)
    assert api.asked == [POST, GET, GET, GET, GET]
    assert capsys.readouterr().out == "Draining: 3 calls have up to 20 s. Ctrl-C again stops now.\n"


def test_one_call_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with DrainApi(1, 0) as api:
        _drain(api.port)
    assert "1 call has up to" in capsys.readouterr().out


def test_without_calls_it_says_nothing_and_does_not_wait(capsys: pytest.CaptureFixture[str]) -> None:
    with DrainApi(0) as api:
        assert _drain(api.port) < 1
    assert api.asked == [POST]
    assert not capsys.readouterr().out


def test_it_waits_for_the_goodbyes_and_not_longer() -> None:
    with DrainApi(1) as api:
        assert 0.5 <= _drain(api.port, 0.3) < 2


def test_no_drain_seconds_no_wait(capsys: pytest.CaptureFixture[str]) -> None:
    with DrainApi(3) as api:
        assert _drain(api.port, 0) < 0.3
    assert api.asked == [POST], "starts are refused all the same"
    assert not capsys.readouterr().out


@pytest.mark.parametrize("status", [401, 404])
def test_an_api_that_refuses_is_not_waited_for(capsys: pytest.CaptureFixture[str], status: int) -> None:
    with DrainApi(status) as api:
        _drain(api.port)
    assert api.asked == [POST]
    said = f"Cannot drain: the api answers {status} to POST /api/nodes/n1/drain. Stopping without.\n"
    assert capsys.readouterr().out == said


def test_an_answer_without_a_number_is_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with DrainApi("many") as api:
        _drain(api.port)
    assert "Cannot drain: POST /api/nodes/n1/drain is answered without a number" in capsys.readouterr().out


def test_it_gives_up_when_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0.3 <= _drain(free_ports()) < 2
    assert "Cannot drain: the api does not answer (" in capsys.readouterr().out
    assert _drain(free_ports(), 0) < 0.2, "where nothing is waited for, neither is the api"


def test_it_gives_up_when_the_api_goes_away_during_the_drain(capsys: pytest.CaptureFixture[str]) -> None:
    with DrainApi(2) as api:
        closing = threading.Timer(0.2, api.close)
        closing.start()
        assert 0.3 <= _drain(api.port) < 3
        closing.join()
    begun, given_up = capsys.readouterr().out.splitlines()
    assert begun.startswith("Draining: 2 calls")
    assert given_up.startswith("Cannot drain: the api does not answer (")


def test_an_api_that_is_unwell_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    with DrainApi(503, 503, 1, 0) as api:
        _drain(api.port)
    assert api.asked == [POST, POST, POST, GET]
    with DrainApi(503) as api:
        assert 0.3 <= _drain(api.port) < 2, "calls nobody knows of are not waited for"
    assert "the api answers 503" in capsys.readouterr().out


def test_known_calls_are_not_cut_off_when_the_api_loses_its_redis(capsys: pytest.CaptureFixture[str]) -> None:
    with DrainApi(1, 503) as api:
        assert _drain(api.port, 0.8) >= 1.0
    assert "Cannot" not in capsys.readouterr().out


# The program and its signals


@pytest.fixture
def api() -> Iterator[DrainApi]:
    with DrainApi(1) as found:
        yield found


@pytest.fixture
def process(api: DrainApi) -> Iterator[subprocess.Popen[str]]:
    """The program, asleep."""
    settings = {
        "NODE_ID": "n1",
        "PORT": str(api.port),
        "ADMIN_TOKEN": "a-token-for-tests",
        "http_proxy": "http://127.0.0.1:9",
    }
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **settings}
    command = [sys.executable, "-m", "orchestrator.cli.drain"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as it:
        poll(lambda: asleep(it.pid), "it waits for its signal")
        yield it
        it.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_sleeps_until_the_signal_and_ends_with_the_calls(
    api: DrainApi, process: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert not api.asked
    process.send_signal(number)
    poll(lambda: len(api.asked) > 2, "it has asked", 5)
    assert api.asked[0] == POST
    assert process.poll() is None
    api.answers[:] = [0]
    out, _ = process.communicate(timeout=5)
    assert process.returncode == 0
    assert out == "Draining: 1 call has up to 30 s. Ctrl-C again stops now.\n"


def test_a_second_signal_ends_it_at_once(api: DrainApi, process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    poll(lambda: api.asked, "it drains", 5)
    process.send_signal(signal.SIGTERM)
    process.wait(2)
