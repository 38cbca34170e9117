"""A node on a terminal that is closed or stopped, and a node without a terminal."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.node.terminal import NonBlockingText
from tests.support.drain_api import DrainApi
from tests.support.processes import poll
from tests.support.terminal import Terminal
from tests.unit.test_supervise import BAD, GOOD, Supervised

pytestmark = pytest.mark.thorough


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    with Supervised(tmp_path) as found:
        yield found


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    found = Terminal()
    yield found
    found.close()


@pytest.fixture
def draining(supervised: Supervised) -> Iterator[DrainApi]:
    """A node with a call."""
    with DrainApi(1) as api:
        supervised.programs = {"good": GOOD, "drain": f"{sys.executable} -u -m orchestrator.node.drain_at_stop"}
        supervised.more = "stopwaitsecs=40\n"
        supervised.settings = {"PORT": str(api.port), "NODE_ID": "n1", "ADMIN_TOKEN": "a-token-for-tests"}
        yield api


def test_closing_the_terminal_stops_the_node(supervised: Supervised, terminal: Terminal) -> None:
    supervised.programs = {"first": GOOD, "second": GOOD}
    supervised.more_popen = terminal.popen
    supervised.start().up()
    terminal.started()
    terminal.close()
    assert supervised.ends() == 0
    assert supervised.has("the terminal was closed (SIGHUP): the node stops")
    assert (supervised.folder / "supervisord.log").read_text().count("spawned: 'first'") == 1, "SIGHUP reloads nothing"


def test_closing_the_terminal_does_not_shorten_a_drain(
    supervised: Supervised, draining: DrainApi, terminal: Terminal
) -> None:
    supervised.more_popen = terminal.popen
    supervised.start().up()
    terminal.started()
    terminal.close()
    poll(lambda: len(draining.asked) > 1, "it drains although its output is not read")
    # The shell and the kernel both send a SIGHUP, and a logout ends with a SIGTERM.
    supervised.process.send_signal(signal.SIGHUP)
    poll(lambda: supervised.has("ignored SIGHUP"), "it has received the second one")
    supervised.process.send_signal(signal.SIGTERM)
    poll(lambda: supervised.has("received SIGTERM"), "it has received the SIGTERM")
    asked = len(draining.asked)
    poll(lambda: len(draining.asked) > asked + 1, "it continues to drain")
    draining.answers[:] = [0]
    assert supervised.ends() == 0


def test_two_signals_after_closing_the_terminal_stop_immediately(
    supervised: Supervised, draining: DrainApi, terminal: Terminal
) -> None:
    supervised.more_popen = terminal.popen
    supervised.start().up()
    terminal.started()
    terminal.close()
    poll(lambda: draining.asked, "it drains")
    for _ in range(2):
        (supervised.folder / "supervisord.log").write_text("")
        supervised.process.send_signal(signal.SIGTERM)
        poll(lambda: supervised.has("received SIGTERM") or supervised.process.poll() is not None, "it has received it")
    assert supervised.ends(5) == 0


def test_closing_the_terminal_has_no_effect_under_nohup(supervised: Supervised, terminal: Terminal) -> None:
    supervised.programs = {"good": GOOD}
    supervised.more_popen = terminal.popen
    supervised.before = ["nohup", sys.executable]
    supervised.start().up()
    terminal.started()
    terminal.close()
    poll(lambda: supervised.has("ignored SIGHUP"), "it has received the signal")
    good = supervised.program("good")
    # Its children do not ignore SIGHUP, because supervisord stops the agent host with it.
    status = Path(f"/proc/{good}/status").read_text()
    ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    assert not ignored & (1 << signal.SIGHUP - 1 | 1 << signal.SIGTTOU - 1)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.ends() == 0


def test_a_hangup_has_no_effect_without_a_terminal(supervised: Supervised) -> None:
    supervised.programs = {"good": GOOD}
    supervised.start().up()
    good = supervised.program("good")
    supervised.process.send_signal(signal.SIGHUP)
    poll(lambda: supervised.has("ignored SIGHUP"), "it has received the signal")
    assert supervised.program("good") == good
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.ends() == 0


def test_closing_the_terminal_during_the_start_stops_the_node(supervised: Supervised) -> None:
    # Signals are blocked as by `orchestrator up`: those that come before there is a handler are kept.
    script = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [1]); os.kill(os.getpid(), 1); "
    supervised.before = [sys.executable, "-c", script + "os.execv(sys.executable, sys.argv[1:])", sys.executable]
    supervised.programs = {"good": GOOD}
    assert supervised.start().ends() == 0


@pytest.mark.parametrize("how", ["stopped", "full"])
@pytest.mark.parametrize("log_to", ["files", "stdout"])
def test_a_blocked_terminal_does_not_block_the_node(
    supervised: Supervised, terminal: Terminal, how: str, log_to: str
) -> None:
    supervised.programs = {"good": "/bin/sh -c 'while :; do echo hello; sleep 0.01; done'", "bad": BAD}
    supervised.settings = {"LOG_TO": log_to, "DRAIN_SECONDS": "30", "RAILWAY_PROJECT_ID": "p"}
    supervised.more_popen = terminal.popen
    if how == "stopped":
        terminal.stop_output()
    else:
        terminal.fill()
    assert supervised.start().ends() == 1


def test_a_closed_reader_of_the_output_does_not_change_the_exit_code(supervised: Supervised) -> None:
    ours, theirs = os.pipe()
    supervised.programs = {"good": GOOD, "bad": BAD}
    supervised.settings = {"DRAIN_SECONDS": "30", "RAILWAY_PROJECT_ID": "p", "LOG_TO": "stdout"}
    supervised.more_popen = {"stdout": theirs, "stderr": theirs}
    os.close(ours)
    supervised.start()
    os.close(theirs)
    assert supervised.ends() == 1


def test_messages_appear_on_the_terminal(supervised: Supervised, terminal: Terminal) -> None:
    supervised.programs = {"bad": BAD}
    supervised.more_popen = terminal.popen
    assert supervised.start().ends() == 1
    assert "bad does not start: the port is taken" in terminal.said()


def test_text_is_written_completely_to_an_active_reader(tmp_path: Path) -> None:
    with (tmp_path / "said").open("w") as file:
        patient = NonBlockingText(file)
        text = "naïve \N{PARTY POPPER}\n" * 1000
        assert patient.write(text) == len(text)
        assert not patient.isatty()
    assert (tmp_path / "said").read_text() == text
