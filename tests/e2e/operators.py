"""The operator's tools on a whole node: Prometheus metrics, alerts by webhook, logs, Flower."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import redis

from orchestrator.call.caller import Call
from tests.e2e.strangers import CANARIES
from tests.support.node import Node
from tests.support.processes import alive, free_ports, poll
from tests.support.promtool import DEPLOY, promtool
from tests.support.receiver import Receiver


def lines(node: Node, program: str) -> list[dict[str, Any]]:
    """Return the log of one of its programs; every line must be a JSON object."""
    return [json.loads(line) for line in node.log(program).splitlines()]


def metrics_of_a_takeover(node: Node) -> None:
    found = dict(re.findall(r"^(\S+) (\S+)$", node.http.get("/metrics").text, re.MULTILINE))
    for name in ("boot", "join", "first_audio", "takeover"):
        assert float(found[f"orchestrator_{name}_seconds_count"]) >= 1, name
        assert 0 < float(found[f"orchestrator_{name}_seconds_sum"]) < 60, name
    assert float(found['orchestrator_start_seconds_count{path="hit"}']) >= 1
    assert float(found["orchestrator_takeovers_total"]) == 1
    assert float(found["orchestrator_beat_last_tick_timestamp_seconds"]) > 1e9
    assert found[f'orchestrator_node_host_up{{node="{node.environment["NODE_ID"]}"}}'] == "1.0"


async def a_takeover_alert_is_signed_and_retried_until_it_is_accepted(node: Node, receiver: Receiver) -> None:
    async with Call(node.url, "ada", key=CANARIES["API_KEYS"]) as call:
        call.hum()
        await call.sound()
        before = await call.look()
        os.kill(before["agentPid"], signal.SIGKILL)
        poll(lambda: receiver.of("takeover.finished"), "there are two alerts for the takeover")
        poll(lambda: len(receiver.messages) == 3, "the refused message was sent again")
        await call.hang_up()
    assert all(message.verified for message in receiver.messages)
    assert len({message.id for message in receiver.messages}) == 2, "one was sent twice with the same id"
    begun = receiver.of("takeover.started")[0].body["data"]
    assert (begun["sessionId"], begun["agentId"]) == (before["sessionId"], before["agentId"])
    assert begun["cause"] == "killed by signal 9"
    assert 0 < receiver.of("takeover.finished")[0].body["data"]["lasted"] < 10
    metrics_of_a_takeover(node)
    assert CANARIES["ALERT_WEBHOOK_SECRET"] not in node.log("worker")
    assert receiver.url not in node.log("worker")


def promtool_accepts_the_metrics(node: Node, _: Receiver) -> None:
    text = node.http.get("/metrics").text
    done = subprocess.run(
        [promtool(), "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def every_metric_of_the_alerts_and_the_dashboard_exists(node: Node, _: Receiver) -> None:
    text = node.http.get("/metrics").text
    exposed = set(re.findall(r"^(?:# TYPE )?(orchestrator_\w+)", text, re.MULTILINE))
    # Beat sends its first task thirty seconds after its start.
    exposed.add("orchestrator_beat_task_last_sent_timestamp_seconds")
    for file in ("prometheus/alerts.yml", "prometheus/alerts_test.yml", "grafana/orchestrator.json"):
        named = set(re.findall(r"orchestrator_[a-z_]+", (DEPLOY / file).read_text()))
        assert len(named) > 5
        assert named <= exposed, f"{file} names metrics that do not exist: {named - exposed}"


def every_program_logs_json_with_the_request_id(node: Node, _: Receiver) -> None:
    node.resize(0)
    try:
        answer = node.http.post("/api/session/start", json={"userId": "traced"}, headers={"X-Request-Id": "trace-1"})
        session = answer.json()["sessionId"]
        assert answer.headers["x-request-id"] == "trace-1"
        poll(lambda: node.session(session)["status"] == "ready", "the session has an agent")
        node.end(session)
    finally:
        node.resize(2)
    traced = [line for line in lines(node, "api") if line.get("request_id") == "trace-1"]
    (access,) = [line for line in traced if line["logger"] == "orchestrator.access"]
    assert (access["path"], access["status"], access["session_id"]) == ("/api/session/start", 202, session)
    tasks = poll(lambda: [line for line in lines(node, "worker") if line.get("request_id") == "trace-1"], "its log")
    assert {line["task"] for line in tasks} >= {"orchestrator.spawn_agent"}
    for program in ("beat", "relay", "host"):
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines(node, program)), program


def the_hosts_memory_has_no_secret_of_the_webhook(node: Node, _: Receiver) -> None:
    environment = Path(f"/proc/{node.program('host')}/environ").read_text()
    assert CANARIES["ALERT_WEBHOOK_SECRET"] not in environment
    assert "ALERT_WEBHOOK" not in environment
    assert CANARIES["ALERT_WEBHOOK_SECRET"].encode() in Path(f"/proc/{node.program('worker')}/environ").read_bytes(), (
        "without log lines this test proves nothing"
    )


def no_task_carries_a_secret(node: Node, _: Receiver) -> None:
    with redis.Redis.from_url(node.redis_url) as raw:
        for key in raw.scan_iter(count=1000):
            assert CANARIES["ALERT_WEBHOOK_SECRET"].encode() not in (raw.dump(key) or b""), key


def flower_lists_the_worker_and_requires_credentials(node: Node, _: Receiver) -> None:
    port = free_ports()
    command = [str(Path(sys.executable).parent / "orchestrator"), "flower", "--port", str(port)]
    output = (node.run_dir / "flower.log").open("w+")
    process = subprocess.Popen(command, env=node.environment, cwd=node.run_dir, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            token = CANARIES["ADMIN_TOKEN"]

            name = f"node@{node.environment['NODE_ID']}"

            def listed() -> dict[str, Any] | None:
                assert process.poll() is None, Path(output.name).read_text()
                try:
                    answer = http.get("/api/workers?refresh=1", auth=("admin", token))
                except httpx.HTTPError:
                    return None
                # Flower requests each fact separately, and omits those without an answer within a second.
                found: dict[str, Any] = answer.json().get(name, {}) if answer.is_success else {}
                return found if "active_queues" in found else None

            worker = poll(listed, "Flower lists the Celery worker and its queues", 60, every=0.5)
            assert {queue["name"] for queue in worker["active_queues"]} >= {"celery"}
            assert http.get("/api/workers").status_code == 401
            assert http.get("/").status_code == 401
            queues = http.get("/api/queues/length", auth=("admin", token)).json()["active_queues"]
            assert "celery" in {queue["name"] for queue in queues}
            node.resize(3)
            seen = lambda: "orchestrator.refill" in http.get("/api/tasks", auth=("admin", token)).text  # noqa: E731
            poll(seen, "Flower sees a task", every=0.5)
            assert token not in " ".join(Path(f"/proc/{process.pid}/cmdline").read_text().split("\0"))
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        output.close()
        node.resize(2)
    assert not alive(process.pid)


STEPS = [
    a_takeover_alert_is_signed_and_retried_until_it_is_accepted,
    promtool_accepts_the_metrics,
    every_metric_of_the_alerts_and_the_dashboard_exists,
    every_program_logs_json_with_the_request_id,
    the_hosts_memory_has_no_secret_of_the_webhook,
    no_task_carries_a_secret,
    flower_lists_the_worker_and_requires_credentials,
]
