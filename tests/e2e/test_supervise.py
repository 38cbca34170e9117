"""A whole node that cannot live, that is told to stop in the middle of a call, and that is interrupted."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import Node
from tests.support.processes import alive, poll


def _node(parent: Path, name: str, **settings: Any) -> Node:
    folder = parent / name
    folder.mkdir()
    return Node(folder, **{"POOL_TARGET": 1, "AGENT_MODULE": "agents.echo", **settings})


def _ends(node: Node, seconds: float = 30) -> int:
    """Return the exit code of a node that ends by itself, with nothing left over."""
    assert node.process is not None
    code = node.process.wait(seconds)
    poll(lambda: not node.pids(), "every process of the node is gone", 2)
    return code


def test_a_host_that_cannot_start_ends_the_node(short_folder: Path) -> None:
    node = _node(short_folder, "fatal")
    (node.run_dir / "host.sock").mkdir(parents=True, mode=0o700)  # in the way of its socket
    try:
        node.start(wait=False)
        assert _ends(node, 90) == 1
        output = node.output.read_text()
        assert re.search(
            rf"^orchestrator: host does not start: .*agent host cannot listen on .*"
            rf" \(its log: {node.run_dir}/logs/host\.log\)\. The node stops\.$",
            output,
            re.MULTILINE,
        ), output
        assert output.count("does not start") == 1, "said once"
    finally:
        node.stop()


def test_a_stop_without_calls_is_quick_and_silent(short_folder: Path) -> None:
    node = _node(short_folder, "idle", DRAIN_SECONDS=30)
    with node:
        before = node.said()
        environment = node.environment | {"PORT": "1"}
        again = Node(node.run_dir, **environment)
        again.output = node.run_dir / "again.log"
        again.start(wait=False)
        assert again.process is not None
        assert again.process.wait(20) == 1
        assert "this node runs already (supervisord, pid" in again.output.read_text()
        beat = node.program("beat")
        assert beat is not None
        os.kill(beat, signal.SIGTERM)  # it exits with 0, and is needed all the same
        poll(lambda: node.program("beat") not in {None, beat}, "beat is back")
        started = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - started < 12, "it does not wait for calls that are not"
    assert node.output.read_text() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_call_is_kept_until_it_ends(short_folder: Path, number: signal.Signals) -> None:
    node = _node(short_folder, f"calls{number}", DRAIN_SECONDS=60)
    with node:
        session_id = node.begin("ada")["sessionId"]
        call = node.session(session_id)["agentPid"]
        assert node.process is not None
        node.process.send_signal(number)
        poll(lambda: "Draining: 1 call has up to 60 s. Ctrl-C again stops now." in node.said(), "it drains", 5)
        assert alive(call)
        assert node.session(session_id)["status"] in {"ready", "active"}
        refused = node.http.post("/api/session/start", json={"userId": "grace"})
        assert refused.status_code == 503
        node.end(session_id)
        assert _ends(node) == 0
        assert "Cannot drain" not in node.output.read_text()


def test_a_second_signal_stops_at_once(short_folder: Path) -> None:
    node = _node(short_folder, "twice", DRAIN_SECONDS=60)
    with node:
        node.begin("ada")
        assert node.process is not None
        # As a terminal does it: to everything that was not put into a group of its own.
        os.killpg(node.process.pid, signal.SIGINT)
        poll(lambda: "Draining: 1 call" in node.said(), "it drains", 5)
        os.killpg(node.process.pid, signal.SIGINT)
        assert _ends(node) == 0


def test_it_is_interrupted_while_it_starts(short_folder: Path) -> None:
    node = _node(short_folder, "early")
    try:
        node.start(wait=False)
        poll((node.run_dir / "supervisord.pid").exists, "supervisord runs")
        poll(lambda: "Starting node" in node.said(), "it announces itself")
        assert node.process is not None
        os.killpg(node.process.pid, signal.SIGINT)
        assert _ends(node) == 0
        assert "Traceback" not in node.output.read_text()
    finally:
        node.stop()
