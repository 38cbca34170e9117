"""`make up` for a new user: its output, the state that it keeps, how it stops, and folders with unusual names."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from orchestrator.node.livekit_server import cached, obtain
from tests.support.node import REPOSITORY, Node
from tests.support.processes import alive, poll
from tests.support.terminal import Terminal
from tests.support.walk import walk_plainly

NAME = "it's 100%s naïve [x]"
#: Longer than any test, so a node that waits for this limit instead of its calls fails the test.
DRAIN_SECONDS = 900
#: On a busy machine the api may answer too late, so that the living agents are counted instead: both are right.
DRAINS = re.compile(
    r"^Draining: (the api does not answer \(timed out\), so every live agent counts as a call\. )?[1-3] calls? ha(s|ve)"
    rf" up to {DRAIN_SECONDS} s\. Ctrl-C again stops now\.$",
    re.MULTILINE,
)


def ends(node: Node, seconds: float = 60) -> int:
    """Wait until a node has exited and no process of it is left; returns its exit code."""
    assert node.process is not None
    code = node.process.wait(seconds)
    poll(lambda: not node.pids(), "every process of the node is gone", 10)
    return code


def a_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def a_node_prints_its_addresses_and_stops_without_leftovers(folder: Path) -> None:
    settings = {"POOL_TARGET": 1, "AGENT_MODULE": "agents/echo.py", "DRAIN_SECONDS": DRAIN_SECONDS}
    first = Node(a_folder(folder, "life"), **settings)
    with first as node:
        said = node.said()
        for line in (node.url, node.environment["LIVEKIT_PORT"], "valkey.sock", "orchestrator call"):
            assert line in said
        assert f"admin token  in {node.run_dir}/secrets.json" in said
        assert node.secrets["ADMIN_TOKEN"] not in said, "output that is not a terminal may be stored"
        _it_runs_already(node)
        beat = node.program("beat")
        assert beat is not None
        os.kill(beat, signal.SIGTERM)  # it exits with 0, but must be restarted
        poll(lambda: node.program("beat") not in {None, beat}, "beat is restarted")
        host = node.kill("host")
        poll(lambda: node.program("host") not in {None, host}, "the host is restarted")
        # The session's agent is an orphan that the second host has adopted.
        session_id = node.begin("ada")["sessionId"]
        node.resize(2)
        assert node.said() == said, "none of these events prints a line"
        _a_second_signal_stops_at_once(node)
    ports = {name: first.environment[name] for name in ("PORT", "LIVEKIT_PORT", "NODE_ID")}
    with Node(first.run_dir, **ports | settings) as again:
        assert again.secrets["ADMIN_TOKEN"] == first.secrets["ADMIN_TOKEN"]
        _its_state_is_there_again(again, session_id)
        _a_call_is_kept_until_it_ends(again)


def _it_runs_already(node: Node) -> None:
    again = Node(node.run_dir, **node.environment | {"PORT": "1"})
    again.output = node.run_dir / "again.log"
    again.start(wait=False)
    assert again.process is not None
    assert again.process.wait(60) == 1
    assert "this node runs already (supervisord, pid" in again.output.read_text()
    again.http.close()


def _a_second_signal_stops_at_once(node: Node) -> None:
    pids = node.pids()
    assert len(pids) >= 7
    assert node.process is not None
    # Like a terminal: to all processes of the foreground group.
    os.killpg(node.process.pid, signal.SIGINT)
    poll(lambda: DRAINS.search(node.said()), "it drains")
    os.killpg(node.process.pid, signal.SIGINT)
    assert ends(node) == 0
    poll(lambda: not any(map(alive, pids)), "every process of the node is gone", 5)


def _its_state_is_there_again(node: Node, session_id: str) -> None:
    session = node.session(session_id)
    assert (session["status"], session["reason"]) == ("ended", "the node is stopping")
    assert node.counts()["target"] == 2, "the target of the resize is kept"
    with redis.Redis.from_url(node.redis_url, decode_responses=True) as raw:
        ready = raw.smembers("pool:ready")
        assert len(ready) == 2
        assert raw.get(f"agent:{min(ready)}:pid") in {str(agent["pid"]) for agent in node.agents()}
        assert raw.hgetall(f"session:{session_id}")["userId"] == "ada"
        poll(lambda: raw.llen("celery") == 0, "the task queue is empty")
        poll(lambda: raw.zscore("deadlines", f"close|{session_id}") is None, "the session's room is deleted")
        assert int(raw.hget("pool:stats", "total_spawned")) >= 5, "two of them since the restart"
        poll(lambda: raw.keys("celery:result:*"), "Celery keeps results")
        assert {"celery:beat::schedule", "celery:beat:refill"} <= set(raw.keys("celery:beat:*"))


def _a_call_is_kept_until_it_ends(node: Node) -> None:
    session_id = node.begin("grace")["sessionId"]
    call = node.session(session_id)["agentPid"]
    assert node.process is not None
    node.process.send_signal(signal.SIGTERM)
    poll(lambda: DRAINS.search(node.said()), "it drains")
    assert alive(call)
    assert node.session(session_id)["status"] in {"ready", "active"}
    refused = node.http.post("/api/session/start", json={"userId": "hopper"})
    assert refused.status_code == 503
    node.end(session_id)
    assert ends(node) == 0, "it does not wait when there are no calls"
    assert "Cannot drain" not in node.output.read_text()


def a_host_that_cannot_start_ends_the_node(folder: Path) -> None:
    node = Node(a_folder(folder, "fatal"), POOL_TARGET=1, AGENT_MODULE="agents/echo.py")
    (node.run_dir / "host.sock").mkdir(parents=True, mode=0o700)  # a folder in the place of its socket
    try:
        node.start(wait=False)
        assert ends(node, 120) == 1
        output = node.output.read_text()
        assert re.search(
            rf"^orchestrator: host does not start: .*agent host cannot listen on .*"
            rf" \(its log: {node.run_dir}/logs/host\.log\)\. The node stops\.$",
            output,
            re.MULTILINE,
        ), output
        assert output.count("does not start") == 1, "the error is printed once"
    finally:
        node.stop()


def a_node_is_interrupted_during_its_start(folder: Path) -> None:
    node = Node(a_folder(folder, "early"), POOL_TARGET=1, AGENT_MODULE="agents/echo.py")
    try:
        node.start(wait=False)
        poll((node.run_dir / "supervisord.pid").exists, "supervisord runs")
        poll(lambda: "Starting node" in node.said(), "its first line is printed")
        assert node.process is not None
        os.killpg(node.process.pid, signal.SIGINT)
        assert ends(node) == 0
        assert "Traceback" not in node.output.read_text()
    finally:
        node.stop()


def _checkout(folder: Path) -> Path:
    """Create a checkout with its own virtual environment, as `make up` does; returns the environment's Python."""
    for part in ("orchestrator", "agent_runtime", "agents", "supervisord.conf"):
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    venv = folder / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (venv / "lib").symlink_to(Path(sys.prefix) / "lib")
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", venv)
    return venv / "bin" / "python"


def a_node_runs_in_folders_of_any_name_and_stops_with_its_terminal(folder: Path) -> None:
    """The characters are special to supervisord, a shell, a URL or an .ini file."""
    place = a_folder(folder, NAME)
    (place / "page").mkdir(parents=True)
    (place / "page" / "index.html").write_text("the page")
    python = _checkout(place)
    cache = place / "cache" / "voice-agent-orchestrator"
    cache.mkdir(parents=True)
    (cache / cached().name).symlink_to(obtain())
    for name in ("home", "tmp", "run"):
        (place / name).mkdir()
    node = Node(
        place / "run", POOL_TARGET=1, AGENT_MODULE="agents/echo.py", PYTHONPATH=place, FRONTEND_DIR=place / "page",
        HOME=place / "home", TMPDIR=place / "tmp", XDG_CACHE_HOME=place / "cache",
    )  # fmt: skip
    (place / ".env").write_text(f'RUN_DIR="{place / "run"}"\nAGENT_ENV=NOTHING # of a comment\n')
    node.environment["PATH"] = os.pathsep.join(
        part for part in node.environment["PATH"].split(os.pathsep) if not (Path(part) / "livekit-server").exists()
    )
    terminal = Terminal()
    try:
        command = [str(python), "-c", "from orchestrator.cli import main; main()", "up"]
        node.process = subprocess.Popen(
            command, env=node.environment, cwd=place, start_new_session=True, **terminal.popen
        )
        terminal.started()
        try:
            poll(lambda: "Ctrl-C stops everything." in terminal.said(), "the node is up", 120)
        except AssertionError as failure:
            failure.add_note(terminal.said())
            raise
        assert f"{place}/run/logs" in terminal.said()
        assert node.http.get("/").text == "the page"
        session_id = node.begin("ada")["sessionId"]
        poll(lambda: "agentJoined" in node.session(session_id)["timings"], "the agent is in the room")
        assert str(node.info("host")["logfile"]) == f"{place}/run/logs/host.log"
        terminal.close()
        assert node.process.wait(60) == 0
        poll(lambda: not node.pids(), "no process of it is left", 5)
    finally:
        terminal.close()
        node.stop()


STEPS = [
    a_node_prints_its_addresses_and_stops_without_leftovers,
    a_host_that_cannot_start_ends_the_node,
    a_node_is_interrupted_during_its_start,
    a_node_runs_in_folders_of_any_name_and_stops_with_its_terminal,
]


@pytest.mark.timeout(400)
def test_a_node_starts_and_stops(short_folder: Path, subtests: pytest.Subtests) -> None:
    walk_plainly(subtests, STEPS, short_folder)
