"""The `orchestrator` command: what people read, what programs read, what scripts test."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.node import Node
from tests.support.processes import free_ports, poll


def test_status_sessions_pool_logs_stop(echo_node: Node) -> None:
    poll(lambda: echo_node.counts()["pool"] == 2, "the pool is full")
    started = echo_node.begin("ada")
    shown = echo_node.command("status").stdout
    assert "warm of 2" in shown
    assert "1 of 50" in shown
    status = json.loads(echo_node.command("status", "--json").stdout)
    assert status["success"] is True
    assert status["sessions"]["max"] == 50

    shown = echo_node.command("sessions").stdout
    assert started["sessionId"] in shown, "ids are shown whole: they are there to be copied"
    rows = json.loads(echo_node.command("sessions", "--json").stdout)
    assert started["sessionId"] in {row["sessionId"] for row in rows["sessions"]}
    assert {"agentId", "pid", "status", "node"} <= set(rows["agents"][0])

    joined = lambda: any("joined room_" in line for line in echo_node.logs(started["sessionId"]))  # noqa: E731
    poll(joined, "the agent has logged that it joined")
    assert "joined room_" in echo_node.command("logs", started["sessionId"]).stdout
    assert json.loads(echo_node.command("logs", started["sessionId"], "--json").stdout)["logs"]

    with subprocess.Popen(
        [str(Path(sys.executable).parent / "orchestrator"), "logs", started["sessionId"], "-f"],
        env=echo_node.environment, cwd=echo_node.run_dir, stdout=subprocess.PIPE, text=True,
    ) as follower:  # fmt: skip
        assert follower.stdout is not None
        assert follower.stdout.readline()
        assert echo_node.command("stop", started["sessionId"]).stdout == "The session is stopped.\n"
        rest, _ = follower.communicate(timeout=30)
        assert "leaves: stopped by request" in rest
    assert follower.returncode == 0
    answer = json.loads(echo_node.command("stop", started["sessionId"], "--json").stdout)
    assert "already" in answer["message"]

    assert "warm of 2" in echo_node.command("pool").stdout
    assert json.loads(echo_node.command("pool", "3", "--json").stdout)["target"] == 3
    poll(lambda: echo_node.counts()["pool"] == 3, "the pool has grown")
    echo_node.resize(2)


def test_doctor_on_a_running_node(echo_node: Node) -> None:
    findings = json.loads(echo_node.command("doctor", "--json").stdout)
    assert {finding["name"] for finding in findings} == {"python", "node", "redis", "livekit", "models", "memory"}
    assert all(finding["ok"] for finding in findings), findings
    assert "answers and takes the key pair" in echo_node.command("doctor").stdout


def test_doctor_names_what_is_wrong(echo_node: Node, tmp_path: Path) -> None:
    """Beside a running node, one that would need the same ports, and a Redis that is not there."""
    environment = {
        "RUN_DIR": str(tmp_path),
        "PORT": str(free_ports()),
        "FRONTEND_PORT": str(free_ports()),
        "REDIS_URL": f"redis://127.0.0.1:{free_ports()}",
    }
    echo_node.environment, kept = echo_node.environment | environment, echo_node.environment
    try:
        done = echo_node.command("doctor", "--json", check=False)
    finally:
        echo_node.environment = kept
    assert done.returncode == 1
    bad = {finding["name"]: finding for finding in json.loads(done.stdout) if not finding["ok"]}
    assert set(bad) == {"ports", "redis"}
    assert "livekit-server" in bad["ports"]["found"]
    assert "set LIVEKIT_PORT" in bad["ports"]["mend"]
    assert "REDIS_URL" in bad["redis"]["mend"]


def test_exit_codes(echo_node: Node) -> None:
    unknown = echo_node.command("stop", "session_" + "0" * 32, check=False)
    assert unknown.returncode == 4
    assert unknown.stderr.count("\n") == 1
    for nonsense in ("nonsense", "prewarm_4f0c2a9d…"):  # as `explain` shortens them
        shortened = echo_node.command("stop", nonsense, check=False)
        assert (shortened.returncode, "write its id in full" in shortened.stderr) == (4, True)
    assert echo_node.command("pool", "many", check=False).returncode == 2
    assert echo_node.command("pool", "-5", check=False).returncode == 2
    kept = echo_node.environment
    try:
        echo_node.environment = kept | {"ADMIN_TOKEN": "not-the-token-of-this-node"}
        refused = echo_node.command("sessions", check=False)
        assert refused.returncode == 1
        assert "ADMIN_TOKEN" in refused.stderr
        echo_node.environment = kept | {"PORT": str(free_ports())}
        for command in (["status"], ["call", "--say", "hello"]):
            silent = echo_node.command(*command, check=False)
            assert silent.returncode == 3
            assert "make up" in silent.stderr
    finally:
        echo_node.environment = kept
