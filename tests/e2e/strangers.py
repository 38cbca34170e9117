"""Attacks by unknown callers, and the places of secrets: a node with API keys, real calls, canaries as secrets."""

import asyncio
import base64
import contextlib
import json
import resource
import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import httpx
import psutil

from orchestrator.call.caller import Call
from orchestrator.node.programs import NEEDS, PROXIES
from tests.support.hurt import connected
from tests.support.node import Node
from tests.support.processes import poll
from tests.support.receiver import Receiver

#: Secret settings, whose values may only be where they are needed.
CANARIES = {
    name: f"canary-{name.lower().replace('_', '-')}-{secrets.token_hex(12)}"
    for name in ("ADMIN_TOKEN", "API_KEYS", "MY_PROVIDER_KEY", "OPENAI_API_KEY", "OWN_KEY")
} | {"ALERT_WEBHOOK_SECRET": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()}
#: The secrets that agents get.
AGENTS = {"OPENAI_API_KEY", "OWN_KEY"}
#: Above the limit of an address (CONNECTIONS_PER_ADDRESS), and above the usual limit of open files.
SLOW_CLIENTS = 1500
#: Timeout of Kubernetes' liveness probe in seconds (deploy/kubernetes/orchestrator.yaml).
PROBE_SECONDS = 5


def _post(body: bytes, more: bytes = b"") -> bytes:
    head = b"POST /api/session/start HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return head + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


_FIELDS = json.dumps(dict.fromkeys(map(str, range(6000)), 0)).encode()
_DEEP = b'{"userId": "u", "metadata": {"a": ' + b"[" * 15_000 + b"]" * 15_000 + b"}}"
_KEY = f"Authorization: Bearer {CANARIES['API_KEYS']}\r\n".encode()
_CHUNKED = b"POST /api/session/start HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
#: Expensive requests: the pieces that each client sends, and the number of clients.
COSTLY = {
    "errors": ([_post(_FIELDS)], 40),
    "errors, with a key": ([_post(_FIELDS, _KEY)], 40),
    "depth, with a key": ([_post(_DEEP, _KEY)], 40),
    "one header": ([b"GET /livez HTTP/1.1\r\nHost: a\r\nX-A: ", *[b"a" * 65_536] * 400], 4),
    "many headers": ([b"GET /livez HTTP/1.1\r\nHost: a\r\n", *[b"X-A: a\r\n" * 8_000] * 50], 4),
    "a URL": ([b"GET /", *[b"a" * 65_536] * 400], 4),
    "chunks": ([_CHUNKED + _KEY + b"\r\n", *[b"1\r\na\r\n" * 10_000] * 50], 4),
}


async def secrets_appear_only_where_they_are_needed(node: Node, _: Receiver) -> None:
    """Every secret is a canary; at the end all readable texts are searched for them."""
    answers: list[str] = []
    async with Call(node.url, "ada", key=CANARIES["API_KEYS"]) as call:
        call.hum()
        await call.sound()
        session = call.session_id
        client_secret = call._http.headers["Authorization"].partition(" ")[2]
        answers += await asyncio.to_thread(everything_readable, node, session)
        agent = psutil.Process((await asyncio.to_thread(node.session, session))["agentPid"])
        environment = "\n".join(f"{name}={value}" for name, value in agent.environ().items())
        host = psutil.Process(node.program("host"))
        hosts = "\n".join(f"{name}={value}" for name, value in host.environ().items())
        commands = "\n".join(" ".join(psutil.Process(pid).cmdline()) for pid in node.pids())
    answers += await asyncio.to_thread(everything_readable, node, session)
    await asyncio.to_thread(refused_requests, node, session)

    livekit = node.secrets["LIVEKIT_API_SECRET"]
    logs = {
        path: path.read_text(errors="replace")
        for path in [*(node.run_dir / "logs").iterdir(), *(node.run_dir / "agents").iterdir(), node.run_dir / "up.log"]
        if path.is_file()
    }
    assert len(logs) > 6
    with connected(node) as raw:
        queue = json.dumps([raw.lrange("celery", 0, -1), [raw.get(key) for key in raw.keys("celery:result:*")]])
        records = json.dumps([raw.hgetall(key) for key in raw.keys("session:*") if raw.type(key) == "hash"])
    assert CANARIES["OWN_KEY"] in environment
    assert "REDIS" not in environment + hosts, "agents know the socket of the relay only"
    for name, secret in (CANARIES | {"client secret": client_secret, "LIVEKIT_API_SECRET": livekit}).items():
        for what, text in {
            "an agent's environment": environment, "the agent host's": hosts, "a command line": commands,
            "a task or its result": queue, "a session's record": records,
            **{f"answer {number}": text for number, text in enumerate(answers)},
            **{str(path): text for path, text in logs.items()},
        }.items():  # fmt: skip
            if name == "ADMIN_TOKEN" and what.endswith("up.log"):
                continue  # printed at start, for the user who starts the node
            if name in AGENTS and what in {"an agent's environment", "the agent host's"}:
                continue
            assert secret not in text, f"{name} is in {what}"
    for path, text in logs.items():
        assert "eyJ" not in text, f"a LiveKit token is in {path}"


def each_program_gets_only_its_own_secrets(node: Node, receiver: Receiver) -> None:
    secrets = CANARIES | node.secrets | {"ALERT_WEBHOOK_URL": receiver.url, "REDIS_URL": node.redis_url}
    del secrets["VALKEY_PASSWORD"]  # is a part of REDIS_URL
    secrets["ADMIN_TOKEN"] = CANARIES["ADMIN_TOKEN"]
    assert node.process is not None
    expected = {node.process.pid: ("supervisord", set())} | {
        node.program(name): (name, set(needs) - PROXIES | (AGENTS if name == "host" else set()))
        for name, needs in NEEDS.items()
        if name != "announce"  # it exits after printing that the node is up
    }
    for pid, (name, wanted) in expected.items():
        assert pid, name
        given = psutil.Process(pid).environ()
        text = "\n".join(f"{variable}={value}" for variable, value in given.items())
        found = {variable for variable, secret in secrets.items() if secret in text}
        assert found == wanted, f"the environment of {name}"
        assert {variable for variable in found if given.get(variable) == secrets[variable]} == wanted


def everything_readable(node: Node, session: str) -> list[str]:
    """Return the node's answers to all GET routes."""
    document = node.http.get("/openapi.json").json()
    found = []
    for path, methods in document["paths"].items():
        if "get" not in methods or path.endswith("/events"):
            continue
        asked = path.replace("{session_id}", session).replace("{node}", node.environment["NODE_ID"])
        found.append(node.http.get(asked.replace("{reload_id}", "0" * 16)).text)
    assert len(found) >= 8
    return found


def refused_requests(node: Node, session: str) -> None:
    """Make the node log failures, because secrets usually leak in those."""
    for headers in ({"Authorization": f"Bearer {CANARIES['API_KEYS']}x"}, {"Authorization": CANARIES["ADMIN_TOKEN"]}):
        assert httpx.get(f"{node.url}/api/sessions", headers=headers).status_code == 401
    node.http.post("/api/token", json={"sessionId": session, "room_name": "x"})
    node.http.post("/api/session/start", json={"userId": "", "metadata": {"token": CANARIES["ADMIN_TOKEN"]}})


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Raise this process's limit of open files to the hard limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def sent_to(node: Node, pieces: list[bytes]) -> bytes:
    """Send a request and return the beginning of the answer, or nothing if the connection was closed."""
    with socket.create_connection(("127.0.0.1", int(node.environment["PORT"])), timeout=30) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
            return client.recv(64)
        except ConnectionError:
            return b""


def probes_are_answered_during_expensive_requests(node: Node, _: Receiver, *, what: str) -> None:
    pieces, clients = COSTLY[what]
    with ThreadPoolExecutor(clients) as threads:
        flood = [threads.submit(sent_to, node, pieces) for _ in range(clients)]
        while True:
            assert node.http.get("/livez", timeout=PROBE_SECONDS).status_code == 200
            if all(each.done() for each in flood):
                break
    refused = {each.result()[9:12] for each in flood} - {b""}
    assert refused <= {b"400", b"401", b"413", b"414", b"422", b"429", b"431"}, refused


def slow_and_idle_connections_delay_no_request(node: Node, _: Receiver) -> None:
    """S18: many clients that never finish their request, and equally many that send nothing."""
    address = ("127.0.0.1", int(node.environment["PORT"]))
    with many_files(), ExitStack() as stack:
        for number in range(SLOW_CLIENTS):
            client = stack.enter_context(socket.create_connection(address, timeout=5))
            if number % 2:
                client.sendall(b"POST /api/session/start HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 60000\r\n")
        for number in range(5):
            assert node.http.get("/livez", timeout=PROBE_SECONDS).status_code == 200
            answer = node.http.post("/api/session/start", json={"userId": f"brisk-{number}"}, timeout=10)
            assert answer.status_code in {200, 202}
            node.end(answer.json()["sessionId"])
    poll(node.ready, "the node is ready")


async def a_token_of_an_ended_session_gives_no_access(node: Node, _: Receiver) -> None:
    """S5: the room is deleted, and a user who returns with the old token gets neither an agent nor a new token."""
    async with Call(node.url, "eve", key=CANARIES["API_KEYS"]) as call:
        call.hum()
        await call.sound()
        token = await call._ask("POST", "/api/token", {"sessionId": call.session_id})
        await call._ask("POST", "/api/session/stop", {"sessionId": call.session_id})
        await asyncio.to_thread(poll, lambda: not marks(node, call.session_id), "the room is deleted")
        again = await call._http.post("/api/token", json={"sessionId": call.session_id})
        assert (again.status_code, again.json()["code"]) == (409, "session_over")
    from livekit import rtc

    room = rtc.Room()
    await room.connect(token["server_url"], token["participant_token"])
    try:
        assert not room.remote_participants
        with connected(node) as raw:
            assert not {raw.hget(f"agent:{agent}", "state") for agent in raw.smembers("agents")} - {
                "starting", "ready", "stopping",
            }  # fmt: skip
    finally:
        await room.disconnect()


def marks(node: Node, session_id: str) -> Any:
    with connected(node) as raw:
        return raw.zscore("deadlines", f"close|{session_id}")


def a_stop_does_not_wait_for_open_streams(node: Node, _: Receiver) -> None:
    with ExitStack() as stack:
        session = node.begin("ada")["sessionId"]
        client = stack.enter_context(httpx.Client(base_url=node.url, timeout=20, headers=node.admin))
        for _ in range(3):
            answer = stack.enter_context(client.stream("GET", f"/api/session/{session}/events"))
            assert answer.status_code == 200
        node.supervisorctl("stop", "api")
        assert "Cancel" not in node.log("api"), "uvicorn cancelled the streams after a timeout"
    node.supervisorctl("start", "api")
    poll(node.ready, "the node is ready")
    node.end(session)


STEPS = [
    secrets_appear_only_where_they_are_needed,
    each_program_gets_only_its_own_secrets,
    *(partial(probes_are_answered_during_expensive_requests, what=what) for what in COSTLY),
    slow_and_idle_connections_delay_no_request,
    a_token_of_an_ended_session_gives_no_access,
    a_stop_does_not_wait_for_open_streams,
]
