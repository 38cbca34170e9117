"""A node with an external LiveKit and an external Redis like that of a managed service."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import redis

from tests.support import livekit
from tests.support.node import Node
from tests.support.processes import free_ports, poll, start_valkey, stop
from tests.support.tls import certificates, tls_before

PASSWORD = "p@/?#%&=+:"
#: The rules in docs/redis.md.
RULES = "~voice:* &voice:* &voice:/0.celery.pidbox +@all -@admin -@dangerous"


@pytest.mark.timeout(240)
def test_a_node_runs_on_a_shared_managed_redis_and_an_external_livekit(short_folder: Path) -> None:
    """TLS, a Redis user with few rights, and a prefix work for each program, agents, a call, and Flower."""
    folder = short_folder / "managed"
    folder.mkdir()
    authority, certificate, key = certificates(folder)
    port = free_ports()
    valkey = start_valkey(folder, port)
    try:
        with (
            redis.Redis(port=port, decode_responses=True) as raw,
            tls_before(port, certificate, key) as outside,
            livekit.server(folder) as media,
        ):
            raw.execute_command("ACL", "SETUSER", "app", "reset", "on", f">{PASSWORD}", *RULES.split())
            url = f"rediss://app:{quote(PASSWORD, safe='')}@localhost:{outside}/0?ssl_cert_reqs=CERT_REQUIRED"
            settings = {"REDIS_URL": url, "REDIS_CA_FILE": str(authority), "REDIS_PREFIX": "voice"}
            settings |= {"LIVEKIT_URL": f"ws://127.0.0.1:{media}", "LIVEKIT_PUBLIC_URL": "wss://public"}
            settings |= {"LIVEKIT_API_KEY": livekit.KEY, "LIVEKIT_API_SECRET": livekit.SECRET}
            settings |= {"ADMIN_TOKEN": "mine-of-16-and-more"}
            stray = {"CELERY_BROKER_URL": "amqp://127.0.0.1:1//", "CELERY_WORKER_POOL": "prefork"}
            with Node(folder, POOL_TARGET=1, AGENT_MODULE="agents/echo.py", **settings, **stray) as node:
                assert (node.program("valkey"), node.program("livekit")) == (None, None)
                session = node.begin("ada")["sessionId"]
                joined = lambda: "agentJoined" in node.session(session)["timings"]  # noqa: E731
                poll(joined, "the agent is in a room of that LiveKit server")
                token = node.http.post("/api/token", json={"sessionId": session}).json()
                assert token["server_url"] == "wss://public"
                mine = {"Authorization": "Bearer mine-of-16-and-more"}
                assert node.http.get("/api/sessions", headers=mine).is_success
                assert node.end(session)["success"]
                poll(lambda: raw.hget("voice:beat:ticks", "beat"), "beat ticks")
                poll(lambda: raw.keys("voice:celery:result:*"), "tasks run, and their results are kept")
                poll(lambda: not node.health()["warnings"], "there are no warnings")
                assert [name for name in raw.scan_iter(count=1000) if not name.startswith("voice:")] == []
                assert node.command("redis", "HGET", f"voice:session:{session}", "userId").stdout == "ada\n"
                assert PASSWORD not in node.output.read_text()
                assert quote(PASSWORD, safe="") not in "".join(
                    path.read_text() for path in (node.run_dir / "logs").iterdir()
                )
                _flower_counts(node)
    finally:
        stop(valkey)


def _flower_counts(node: Node) -> None:
    port = free_ports()
    command = [str(Path(sys.executable).parent / "orchestrator"), "flower", "--port", str(port)]
    with (node.run_dir / "flower.log").open("wb") as output:
        process = subprocess.Popen(command, env=node.environment, cwd=node.run_dir, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as http:

            def counted() -> bool:
                assert process.poll() is None, (node.run_dir / "flower.log").read_text()
                try:
                    auth = ("admin", node.environment["ADMIN_TOKEN"])
                    http.get("/api/workers?refresh=1", auth=auth)
                    found = http.get("/api/queues/length", auth=auth)
                    return found.is_success and "celery" in {each["name"] for each in found.json()["active_queues"]}
                except httpx.HTTPError:
                    return False

            poll(counted, "Flower counts the waiting tasks", 60, every=0.5)
    finally:
        stop(process)
