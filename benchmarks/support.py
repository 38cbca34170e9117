"""Common parts of the measurements: figures, programs that are stopped at the end, a light client, the reference."""

import contextlib
import json
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import redis

from orchestrator.machine.process import ProcessId
from orchestrator.settings import Settings
from tests.support.node import REPOSITORY, Node
from tests.support.pool import fill
from tests.support.processes import alive, free_ports, marked, poll, start_valkey, stop

#: The command of the API as on a node, with the benchmarks' application.
_SERVE = "from orchestrator.api.__main__ import main; main('benchmarks.app:create')"

# Results


@dataclass(frozen=True, slots=True)
class Aim:
    """The target of a figure. A run does not fail if the figure misses it."""

    of: Literal["value", "ratio"]
    bound: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}{' x' if self.of == 'ratio' else ''}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report: a value, and its reference from the same run."""

    name: str
    value: float
    unit: str
    reference: float | None = None
    against: str = ""  #: what the reference is
    aim: Aim | None = None

    @property
    def ratio(self) -> float | None:
        """The value divided by the reference."""
        return self.value / self.reference if self.reference else None

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached, or None without an aim."""
        found = None if self.aim is None else self.value if self.aim.of == "value" else self.ratio
        if self.aim is None or found is None:
            return None
        return found >= self.aim.bound if self.aim.at_least else found <= self.aim.bound


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the quantile of the samples at `share`."""
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def note(text: str) -> None:
    """Print the progress."""
    print(text, file=sys.stderr, flush=True)


# Programs


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a short path, for its Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def running(command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program. At the end, stop it and all its descendants, and check that they have ended."""
    mark = ("BENCHMARK", secrets.token_hex(8))
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=kept | {"PYTHONPATH": str(REPOSITORY)} | environment | dict([mark]),
            cwd=log.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(AssertionError):
            poll(lambda: not marked(*mark), "its children are gone", 5)
        for pid in marked(*mark):
            note(f"{Path(command[0]).name} left pid {pid} behind; killed")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(5)
        poll(lambda: not marked(*mark), f"everything that {command} started is gone", 5)


# The API, for P1 and P2


@dataclass(frozen=True, slots=True)
class Api:
    """An API process with a pool of warm agents."""

    port: int
    redis: "redis.Redis"
    pids: dict[str, int]  #: pids of api and valkey
    log: Path


@contextlib.contextmanager
def api(warm: int) -> Iterator[Api]:
    """Serve the API as supervisord does, with a Valkey that has `warm` warm agents.

    The agents are only records. Their recorded process is this one, on the API's own node, because every start checks
    that the process exists.
    """
    with short_folder() as folder, contextlib.ExitStack() as stack:
        ports = free_ports(), free_ports()
        valkey = start_valkey(folder, ports[0])
        stack.callback(lambda: poll(lambda: not alive(valkey.pid), "Valkey is gone"))
        stack.callback(stop, valkey)
        url = f"redis://127.0.0.1:{ports[0]}/0"
        # redis-py types every reply as bytes or str, whatever decode_responses says.
        raw: Any = stack.enter_context(redis.Redis.from_url(url, decode_responses=True))
        raw.config_set("appendonly", "yes")  # as on a node
        raw.hset("policy", mapping=Settings(max_sessions=1_000_000, heartbeat_timeout_seconds=36_000).policy)
        raw.set("pool:target", 0)
        _fill(raw, warm, "bench")
        environment = {
            "NODE_ID": "bench", "RUN_DIR": str(folder), "REDIS_URL": url, "PYTHONUNBUFFERED": "1",
            "LIVEKIT_URL": "ws://127.0.0.1:1", "LIVEKIT_API_KEY": "key", "LIVEKIT_API_SECRET": secrets.token_hex(32),
            "ADMIN_TOKEN": secrets.token_hex(16), "RATE_LIMIT": "1000000000/minute",
            "SESSIONS_PER_ADDRESS": "0", "WAITING_PER_ADDRESS": "0", "MAX_SESSIONS": "1000000",
            "HEARTBEAT_TIMEOUT_SECONDS": "36000", "PORT": str(ports[1]), "FRONTEND_PORT": "0",
        }  # fmt: skip
        log = folder / "api.log"
        process = stack.enter_context(running([sys.executable, "-c", _SERVE], environment, log))

        def answers() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"the api ended: {log.read_text()}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", ports[1])) == 0

        poll(answers, "the API answers")
        yield Api(ports[1], raw, {"api": process.pid, "valkey": valkey.pid}, log)


def _fill(raw: Any, count: int, node: str) -> None:
    process = ProcessId.of(os.getpid())
    assert process is not None
    identity = {"node": node, "pid": process.pid, "startTicks": process.start_ticks}
    agents = fill(raw, count)
    with raw.pipeline(transaction=False) as pipe:
        for agent in agents:
            pipe.hset(f"agent:{agent}", mapping=identity)
        pipe.execute()


class Connection:
    """One keep-alive connection with little overhead, so that the client does not distort the measurement."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        """Send one request."""
        self.socket.sendall(request)

    def receive(self) -> tuple[int, bytes]:
        """Return the status and the body of one answer. Raises RuntimeError when the server hangs up."""
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._read()
        head = data[:end].lower()
        length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        while len(data) < end + 4 + length:
            data += self._read()
        return int(head[9:12]), data[end + 4 :]

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send one request and return the status and the body of its answer."""
        self.send(request)
        return self.receive()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def _read(self) -> bytes:
        data = self.socket.recv(65_536)
        if not data:
            raise RuntimeError("the api closed a connection")
        return data


PING = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"


def post(path: str, body: dict[str, Any]) -> bytes:
    """Return a POST request."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    return head.encode() + b"\r\n\r\n" + content


def start_request(user: object) -> bytes:
    """Return the request that starts a session for a user."""
    return post("/api/session/start", {"userId": f"user-{user}"})


# livekit-agents' own worker, for P3, P5 and P6

#: How the reference gets its models: in each process's prewarm, or once in its fork server (preload_modules).
Models = Literal["prewarm", "preload"]


class LiveKitWorker:
    """livekit-agents' own worker with the voice agent, on a node's LiveKit server."""

    def __init__(self, node: Node, folder: Path, *, idle: int, models: Models) -> None:
        where = {"prewarm": "each process", "preload": "its fork server"}[models]
        self.name = f"livekit-agents' worker, models in {where}"
        self.agent_name = f"reference-{models}"
        self._idle = idle
        self._states = folder / self.agent_name
        self._states.mkdir()
        self._log = folder / f"{self.agent_name}.log"
        self._environment = livekit_environment(node) | {
            "REFERENCE_NAME": self.agent_name, "REFERENCE_STATES": str(self._states),
            "REFERENCE_IDLE": str(idle), "REFERENCE_MODELS": models, "PYTHONUNBUFFERED": "1",
            # Our agent processes have these too.
            "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1",
            "MOONSHINE_ORT_SINGLE_THREAD": "1",
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def up(self) -> Iterator["LiveKitWorker"]:
        """Run it, registered and with its idle processes ready."""
        command = [sys.executable, "-m", "benchmarks.livekit_agent", "start"]
        with running(command, self._environment, self._log) as self.process:
            poll(lambda: "registered worker" in self._said(), "the reference is registered", 120)
            self.settle()
            yield self

    def states(self) -> dict[int, str]:
        """Return the state of each of its living processes: `idle` or `job`."""
        return {int(path.name): path.read_text() for path in self._states.iterdir() if self._has(int(path.name))}

    def count(self, state: str) -> int:
        """Return how many of its processes are in a state."""
        return Counter(self.states().values())[state]

    def settle(self) -> None:
        """Wait until no job is left and its idle processes are ready."""
        wanted = {"idle": self._idle} if self._idle else {}
        poll(lambda: self._said() and dict(Counter(self.states().values())) == wanted, f"{self.name} has settled", 120)

    def family(self) -> list[int]:
        """Return the pids of all its processes."""
        return marked("REFERENCE_STATES", str(self._states))

    def _has(self, pid: int) -> bool:
        """Return whether a pid is a living process of this worker: the kernel may have reused the number."""
        try:
            return f"REFERENCE_STATES={self._states}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    def _said(self) -> str:
        text = self._log.read_text()
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended: {text}")
        return text


def livekit_environment(node: Node) -> dict[str, str]:
    """Return the address and the key pair of a node's LiveKit server."""
    pair = {name: node.secrets[name] for name in ("LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")}
    return {"LIVEKIT_URL": f"ws://127.0.0.1:{node.environment['LIVEKIT_PORT']}"} | pair


def settle(node: Node, workers: Iterable[LiveKitWorker] = ()) -> None:
    """Wait until the pool and the idle processes are full again and the last round has ended."""

    def quiet() -> bool:
        counts = node.counts()
        busy = counts["booting"] + counts["starting"] + counts["ready"] + counts["active"]
        return not busy and counts["pool"] == counts["target"] == len(node.agents())

    poll(quiet, "the node has settled", 60)
    for worker in workers:
        worker.settle()
