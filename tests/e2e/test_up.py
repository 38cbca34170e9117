"""`make up` as a newcomer meets it: what it prints, what it keeps, how it stops, what it says when it cannot start."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from orchestrator.errors import Preflight
from orchestrator.node.environment import in_dot_env
from tests.support.node import REPOSITORY, Node
from tests.support.processes import alive, free_ports, poll


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_what_is_up_and_stops_without_a_trace(short_folder: Path, number: signal.Signals) -> None:
    folder = short_folder / f"up{number}"
    folder.mkdir()
    with Node(folder, POOL_TARGET=1, AGENT_MODULE="agents.echo") as node:
        said = node.said()
        for line in (node.url, node.environment["LIVEKIT_PORT"], "valkey.sock", "orchestrator call"):
            assert line in said
        assert f"admin token  in {node.run_dir}/secrets.json" in said
        assert node.secrets["ADMIN_TOKEN"] not in said, "output that is no terminal is kept by somebody"
        host = node.kill("host")
        poll(lambda: node.program("host") not in {None, host}, "the host is back")
        node.begin("orphaned")  # its agent is an orphan that the second host has adopted
        pids = node.pids()
        assert len(pids) >= 7
        assert node.process is not None
        node.process.send_signal(number)
        assert node.process.wait(30) == 0
        assert not [pid for pid in pids if alive(pid)]
        assert node.pids() == []


def test_its_state_is_there_again_after_a_restart(short_folder: Path) -> None:
    folder = short_folder / "again"
    folder.mkdir()
    with Node(folder, POOL_TARGET=1, AGENT_MODULE="agents.echo") as node:
        token = node.secrets["ADMIN_TOKEN"]
        session_id = node.begin("ada")["sessionId"]
        node.resize(2)
    ports = {name: node.environment[name] for name in ("PORT", "LIVEKIT_PORT", "NODE_ID")}
    again = Node(folder, **ports, POOL_TARGET=1, AGENT_MODULE="agents.echo")
    again.output = folder / "again.log"
    with again, redis.Redis.from_url(again.redis_url, decode_responses=True) as raw:
        assert again.secrets["ADMIN_TOKEN"] == token
        session = again.session(session_id)
        assert (session["status"], session["reason"]) == ("ended", "the node is stopping")
        assert again.counts()["target"] == 2, "the resize is kept"
        ready = raw.smembers("pool:ready")
        assert len(ready) == 2
        assert raw.get(f"agent:{min(ready)}:pid") in {str(agent["pid"]) for agent in again.agents()}
        assert raw.hgetall(f"session:{session_id}")["userId"] == "ada"
        poll(lambda: raw.llen("celery") == 0, "the task queue is empty")
        assert int(raw.hget("pool:stats", "total_spawned")) >= 5, "two of them in this life"
        poll(lambda: raw.keys("celery:result:*"), "Celery keeps results")
        assert {"celery:beat::schedule", "celery:beat:refill"} <= set(raw.keys("celery:beat:*"))


def test_a_hung_agent_is_stopped_and_the_health_check_sees_every_process(short_folder: Path) -> None:
    folder = short_folder / "health"
    folder.mkdir()
    settings = {"POOL_TARGET": 2, "AGENT_MODULE": "agents.echo", "HEARTBEAT_SECONDS": 0.5}
    node = Node(folder, HEARTBEAT_TIMEOUT_SECONDS=2, **settings)
    with node, redis.Redis.from_url(node.redis_url, decode_responses=True) as raw:
        first, second = node.agents()
        os.kill(first["pid"], signal.SIGSTOP)  # hung: it lives, and is silent
        poll(lambda: not alive(first["pid"]), "the hung agent is stopped")
        poll(lambda: raw.hget(f"agent:{first['agentId']}", "state") == "exited", "its end is recorded")
        assert raw.hget(f"agent:{first['agentId']}", "cause").startswith("no heartbeat for"), (
            "the fault, not the signal"
        )
        # Beat asks once a minute; asked for here.
        script = "from orchestrator.worker.tasks import health_check; health_check.delay()"
        subprocess.run([sys.executable, "-c", script], env=node.environment | _urls(node), check=True, timeout=30)
        health = poll(lambda: raw.hgetall(f"agent:{second['agentId']}:health"), "it is examined")
        assert health["status"] == "ok"
        assert int(health["memory_bytes"]) > 1_000_000
        assert int(health["last_check"]) > 0
        poll(lambda: node.counts()["pool"] == 2, "the pool is full again")


def _urls(node: Node) -> dict[str, str]:
    return {"REDIS_URL": node.redis_url}


def _fails(**settings: object) -> str:
    """Return what a node that cannot start says."""
    environment = Node(Path("/nonexistent"), **settings).environment
    done = subprocess.run(
        [str(Path(sys.executable).parent / "orchestrator"), "up"],
        env=environment | {name: str(value) for name, value in settings.items()},
        cwd=REPOSITORY / "tests", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, f"one line, not {done.stderr!r}"
    assert not done.stdout
    return done.stderr


def test_a_busy_port_is_named_with_its_holder_and_the_setting(tmp_path: Path) -> None:
    port = free_ports()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        said = _fails(RUN_DIR=tmp_path, PORT=port)
    assert f"port {port} is held by python" in said
    assert "(pid " in said
    assert "set PORT to a free port" in said


def test_a_bad_setting_is_named(tmp_path: Path) -> None:
    assert "POOL_TARGET='many'" in _fails(RUN_DIR=tmp_path, POOL_TARGET="many")
    assert "10/minute" in _fails(RUN_DIR=tmp_path, RATE_LIMIT="often")
    assert "set LIVEKIT_API_KEY and LIVEKIT_API_SECRET" in _fails(RUN_DIR=tmp_path, LIVEKIT_URL="ws://127.0.0.1:1")


def test_a_long_folder_is_named(tmp_path: Path) -> None:
    assert "too long for a Unix socket" in _fails(RUN_DIR=tmp_path / ("x" * 100))


@pytest.mark.parametrize("name", ["two\nlines", "tab\t", "bell\a", "\udcff"])
def test_a_folder_that_cannot_be_told_in_a_line_is_refused(tmp_path: Path, name: str) -> None:
    for setting in ("RUN_DIR", "FRONTEND_DIR"):
        said = _fails(**({"RUN_DIR": tmp_path} | {setting: tmp_path / name}))
        assert said.startswith(f"orchestrator: {setting}=")
        assert "the path contains a control character or invalid UTF-8" in said


def test_a_line_of_dot_env_that_no_environment_takes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in ("'A=B'=c\n", "NUL='a\0b'\n"):
        (tmp_path / ".env").write_text(line)
        with pytest.raises(Preflight, match="cannot be in an environment"):
            in_dot_env()


def test_it_uses_the_redis_and_the_livekit_that_are_set(
    short_folder: Path, raw: redis.Redis, valkey_url: str, voice_node: Node
) -> None:
    """And two nodes that share nothing but a LiveKit server do not meet."""
    folder = short_folder / "own"
    folder.mkdir()
    livekit = {name: voice_node.secrets[name] for name in ("LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")}
    url = f"ws://127.0.0.1:{voice_node.environment['LIVEKIT_PORT']}"
    settings = livekit | {"LIVEKIT_URL": url, "LIVEKIT_PUBLIC_URL": "wss://public", "REDIS_URL": valkey_url}
    with Node(folder, POOL_TARGET=1, AGENT_MODULE="agents.echo", ADMIN_TOKEN="mine-of-16-and-more", **settings) as node:
        assert node.program("valkey") is None
        assert node.program("livekit") is None
        session_id = node.begin("ada")["sessionId"]
        joined = lambda: "agentJoined" in node.session(session_id)["timings"]  # noqa: E731
        poll(joined, "the agent is in a room of that LiveKit server")
        token = node.http.post("/api/token", json={"sessionId": session_id}).json()
        assert token["server_url"] == "wss://public"
        assert node.http.get("/api/sessions", headers={"Authorization": "Bearer mine-of-16-and-more"}).is_success
        assert raw.hget(f"session:{session_id}", "userId") == "ada"
        assert voice_node.http.get(f"/api/session/{session_id}").status_code == 404
        node.end(session_id)


def test_a_missing_go_is_named(tmp_path: Path) -> None:
    said = _fails(RUN_DIR=tmp_path, PATH="/nowhere", XDG_CACHE_HOME=tmp_path)
    assert "no LiveKit server: set LIVEKIT_URL, LIVEKIT_API_KEY" in said
    assert "set LIVEKIT_URL" in said


def test_a_missing_node_is_named_and_is_no_reason_not_to_start(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("make", "bash", "python3", "find", "env"):
        (programs / name).symlink_to(shutil.which(name) or pytest.fail(f"no {name} on PATH"))
    found = os.environ | {"PATH": str(programs), "PORT": "many"}
    installed = [f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.installed"]
    make = lambda target: subprocess.run(["make", "-C", REPOSITORY, target, *installed], env=found,  # noqa: E731
                                         capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    page = make("frontend")
    assert page.returncode != 0
    assert "needs Node 20.19 or later" in page.stderr
    assert "node is missing" in page.stderr
    up = make("up").stderr
    assert "Going on without the page" in up
    assert "PORT='many'" in up, "it came to the node, which says what is wrong with this setting"


def test_an_old_python_is_named(tmp_path: Path) -> None:
    make = subprocess.run(["make", "-C", REPOSITORY, "up", "VENV=" + str(tmp_path / "v"), "PYTHON="],
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert make.returncode != 0
    assert "No Python 3.11 or later found" in make.stderr
