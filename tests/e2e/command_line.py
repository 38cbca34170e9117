"""The `orchestrator` command: its text for people, its JSON for programs, its exit codes for scripts."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.node import Node
from tests.support.processes import free_ports, poll


def status_sessions_pool_logs_stop(node: Node) -> None:
    poll(lambda: node.counts()["pool"] == 2, "the pool is full")
    started = node.begin("ada")
    shown = node.command("status").stdout
    assert "warm of 2" in shown
    assert "1 of 50" in shown
    status = json.loads(node.command("status", "--json").stdout)
    assert status["success"] is True
    assert status["sessions"]["max"] == 50

    shown = node.command("sessions").stdout
    assert started["sessionId"] in shown, "ids are not shortened, so that they can be copied"
    rows = json.loads(node.command("sessions", "--json").stdout)
    assert started["sessionId"] in {row["sessionId"] for row in rows["sessions"]}
    assert {"agentId", "pid", "status", "node"} <= set(rows["agents"][0])

    joined = lambda: any("joined room_" in line for line in node.logs(started["sessionId"]))  # noqa: E731
    poll(joined, "the agent has logged that it joined")
    assert "joined room_" in node.command("logs", started["sessionId"]).stdout
    assert json.loads(node.command("logs", started["sessionId"], "--json").stdout)["logs"]

    with subprocess.Popen(
        [str(Path(sys.executable).parent / "orchestrator"), "logs", started["sessionId"], "-f"],
        env=node.environment, cwd=node.run_dir, stdout=subprocess.PIPE, text=True,
    ) as follower:  # fmt: skip
        assert follower.stdout is not None
        assert follower.stdout.readline()
        assert node.command("stop", started["sessionId"]).stdout == "The session is stopped.\n"
        rest, _ = follower.communicate(timeout=30)
        assert "leaves: stopped by request" in rest
    assert follower.returncode == 0
    answer = json.loads(node.command("stop", started["sessionId"], "--json").stdout)
    assert "already" in answer["message"]

    assert "warm of 2" in node.command("pool").stdout
    assert json.loads(node.command("pool", "3", "--json").stdout)["target"] == 3
    poll(lambda: node.counts()["pool"] == 3, "the pool has grown")
    node.resize(2)


def doctor_on_a_running_node(node: Node) -> None:
    findings = json.loads(node.command("doctor", "--json").stdout)
    assert {finding["name"] for finding in findings} == {"python", "node", "redis", "livekit", "models", "memory"}
    assert all(finding["ok"] for finding in findings), findings
    assert "answers and accepts the key pair" in node.command("doctor").stdout


def doctor_names_faults(node: Node) -> None:
    """`doctor` for a running node, for a second one that needs the same ports, and for a Redis that is down."""
    elsewhere = node.run_dir / "elsewhere"
    elsewhere.mkdir()
    environment = {
        "RUN_DIR": str(elsewhere),
        "PORT": str(free_ports()),
        "FRONTEND_PORT": str(free_ports()),
        "REDIS_URL": f"redis://127.0.0.1:{free_ports()}",
    }
    node.environment, kept = node.environment | environment, node.environment
    try:
        done = node.command("doctor", "--json", check=False)
    finally:
        node.environment = kept
    assert done.returncode == 1
    bad = {finding["name"]: finding for finding in json.loads(done.stdout) if not finding["ok"]}
    assert set(bad) == {"ports", "redis"}
    assert "livekit-server" in bad["ports"]["found"]
    assert "set LIVEKIT_PORT" in bad["ports"]["mend"]
    assert "REDIS_URL" in bad["redis"]["mend"]


def exit_codes(node: Node) -> None:
    unknown = node.command("stop", "session_" + "0" * 32, check=False)
    assert unknown.returncode == 4
    assert unknown.stderr.count("\n") == 1
    for nonsense in ("nonsense", "prewarm_4f0c2a9d…"):  # shortened like `explain` does
        shortened = node.command("stop", nonsense, check=False)
        assert (shortened.returncode, "write its id in full" in shortened.stderr) == (4, True)
    assert node.command("pool", "many", check=False).returncode == 2
    assert node.command("pool", "-5", check=False).returncode == 2
    kept = node.environment
    try:
        node.environment = kept | {"ADMIN_TOKEN": "not-the-token-of-this-node"}
        refused = node.command("sessions", check=False)
        assert refused.returncode == 1
        assert "ADMIN_TOKEN" in refused.stderr
        node.environment = kept | {"PORT": str(free_ports())}
        for command in (["status"], ["call", "--say", "hello"]):
            silent = node.command(*command, check=False)
            assert silent.returncode == 3
            assert "make up" in silent.stderr
    finally:
        node.environment = kept


def the_documented_commands_reach_the_embedded_redis(node: Node) -> None:
    assert node.command("redis", "LLEN", "celery").stdout == "0\n"
    assert set(node.command("redis", "SMEMBERS", "nodes").stdout.split()) == {node.environment["NODE_ID"]}
    assert node.command("redis", "LRANGE", "celery", "0", "-1").stdout == ""
    wrong = node.command("redis", "NOSUCH", check=False)
    assert wrong.returncode == 1
    assert "unknown command" in wrong.stderr
    assert (node.run_dir / "valkey.sock").stat().st_mode & 0o777 == 0o700
    password = node.secrets["VALKEY_PASSWORD"]
    for program in ("valkey", "worker", "beat", "api", "relay", "host"):
        assert password not in Path(f"/proc/{node.program(program)}/cmdline").read_text()
    assert password not in node.output.read_text()
    assert password not in "".join(path.read_text() for path in (node.run_dir / "logs").iterdir())


STEPS = [
    status_sessions_pool_logs_stop,
    doctor_on_a_running_node,
    doctor_names_faults,
    exit_codes,
    the_documented_commands_reach_the_embedded_redis,
]
