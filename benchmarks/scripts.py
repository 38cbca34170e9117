"""P8: the cost in Redis of a call of each frequent Lua script: processor time, and commands that the script runs."""

import contextlib
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from benchmarks.support import Figure, note, percentile, short_folder
from orchestrator.settings import Settings
from orchestrator.store.loader import named, sources
from tests.support.processes import free_ports, start_valkey, stop

ROUNDS = 40
CALLS = 150  #: calls of each script in a round
SMALL_POOL = 20
REFERENCE = "one command"
#: As long as that of a real start, where the token is the largest part.
PAYLOAD = json.dumps({"type": "assign", "token": "x" * 300, "metadata": {}})
TURN = json.dumps({"role": "user", "text": "What is the weather like?", "at": 1})
AGENTS = [f"prewarm_{number:032x}" for number in range(CALLS)]

Call = tuple[Sequence[str], Sequence[Any]]


@dataclass
class Server:
    """A Valkey with the scripts, and the costs of their calls."""

    raw: "redis.Redis"
    pid: int
    microseconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    commands: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        texts = sources() | {REFERENCE: "return redis.call('HGET', 'policy', 'max_sessions')"}
        self._shas = {name: self.raw.script_load(text) for name, text in texts.items()}

    def call(self, script: str, calls: Sequence[Call], label: str = "") -> list[Any]:
        """Run a script a number of times, and record the cost of a call. Returns the answers."""
        label = label or script
        pipe = self.raw.pipeline(transaction=False)
        for keys, args in calls:
            pipe.evalsha(self._shas[script], len(keys), *keys, *args)
        self.raw.config_resetstat()
        before = self._processor_time()
        answers = pipe.execute()
        self.microseconds[label].append((self._processor_time() - before) / len(calls))
        counts = {name: row["calls"] for name, row in self.raw.info("commandstats").items()}
        outside = {"cmdstat_evalsha", "cmdstat_config|resetstat", "cmdstat_info"}
        self.commands[label] = sum(count for name, count in counts.items() if name not in outside) / len(calls)
        return answers

    def _processor_time(self) -> float:
        """Return the processor time of the thread that runs commands, in microseconds."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[0]) / 1000


@contextlib.contextmanager
def _server() -> Iterator[Server]:
    with short_folder() as folder:
        port = free_ports()
        valkey = start_valkey(folder, port)
        try:
            yield Server(redis.Redis(port=port, decode_responses=True), valkey.pid)
        finally:
            stop(valkey)


def measure() -> list[Figure]:
    """Run calls from the agent's boot to the end, in several rounds on an empty database."""
    note(f"P8: {ROUNDS} rounds of {CALLS} calls of each frequent script")
    with _server() as server:
        for number in range(ROUNDS + 1):
            _round(server)
            if number == 0:
                server.microseconds.clear()
        reference = percentile(server.microseconds.pop(REFERENCE), 0.5)
        figures = []
        for label, times in server.microseconds.items():
            cost = percentile(times, 0.5)
            figures += [
                Figure(f"{label}, processor time of Redis", cost, "us", reference, "a script of one HGET"),
                Figure(f"{label}, commands", server.commands[label], ""),
            ]
        return figures


def _round(server: Server) -> None:
    raw, now = server.raw, _empty(server.raw)
    server.call(REFERENCE, [((), ())] * CALLS)
    with raw.pipeline() as pipe:
        for agent in AGENTS:
            fields = {"state": "starting", "createdAt": now, "node": "n1", "spawnedAt": now, "pid": 1, "startTicks": 1}
            pipe.hset(f"agent:{agent}", mapping=fields)
            pipe.sadd("agents", agent)
            pipe.sadd("pool:starting", agent)
        pipe.execute()
    # Its cost grows with the pool.
    ready = [((), (agent, 1)) for agent in AGENTS]
    server.call("agent_ready", ready[:SMALL_POOL], f"agent_ready, pool of 0 to {SMALL_POOL}")
    server.call("agent_ready", ready[SMALL_POOL:], f"agent_ready, pool of {SMALL_POOL} to {CALLS}")
    server.call("agent_beat", [((f"agent:{agent}", "pool:ready"), (agent,)) for agent in AGENTS])
    answers = server.call("assign", [((), _start(number)) for number in range(CALLS)])
    assert {answer[0] for answer in answers} == {"assigned"}, answers
    sessions = {agent: session for _, session, _, _, agent, *_ in answers}
    assert len(sessions) == CALLS, "two sessions got the same agent"
    server.call("agent_joined", [((), (agent,)) for agent in AGENTS])
    turns = [((f"session:{id}:conversation",), (id, agent, TURN, 50)) for agent, id in sessions.items()]
    server.call("agent_turn", turns)
    server.call(
        "agent_beat", [((f"agent:{agent}", "pool:ready"), (agent,)) for agent in AGENTS], "agent_beat in a call"
    )
    server.call("agent_register", [((), (f"prewarm_r{number}", 1, "n1", "")) for number in range(CALLS)])


def _empty(raw: "redis.Redis") -> int:
    """Empty the database except for a node's settings and its record; returns the time in ms."""
    raw.flushdb()
    now = int(raw.time()[0]) * 1000
    raw.hset("policy", mapping=Settings(max_sessions=1_000_000, heartbeat_timeout_seconds=600).policy)
    raw.mset({"pool:target": 2 * CALLS, "pool:proven": now, "deadlines:looked": now})
    raw.sadd("nodes", "n1")
    raw.hset("node:n1", mapping={"host": 1, "sessions": 10 * CALLS})
    raw.rpush("pool:wake:n1", now)
    return now


def _start(number: int) -> list[str | int]:
    """Return the arguments of a start from a new address, with the default limits."""
    address = f"10.0.{number // 250}.{number % 250}"
    return named(
        userId=f"user{number}", waitingId=f"session_{random.randbytes(16).hex()}", roomName=f"room_{number}",
        payload=PAYLOAD, address=address, network=address, rateAmount=10, rateWindowMs=60_000,
        perAddress=5, waitingPerAddress=2,
    )  # fmt: skip
