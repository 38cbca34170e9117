"""Everything in a test's Redis at one moment, and the policy's waits in tests that move the clock."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.states import LIVE_SESSION_STATES

#: Every wait, in seconds: short, and no two equal.
WAITS = {
    "queue_seconds": 12, "boot_timeout_seconds": 4, "start_timeout_seconds": 6.5, "join_timeout_seconds": 3,
    "user_join_seconds": 8, "user_gone_seconds": 4.5, "max_session_seconds": 20, "heartbeat_timeout_seconds": 6,
    "stop_grace_seconds": 1.5, "shutdown_seconds": 7, "goodbye_seconds": 2, "session_keep_seconds": 3_600,
    "reconcile_seconds": 9,
}  # fmt: skip


def ms(*names: str) -> int:
    """Return waits in ms, added up."""
    return sum(int(WAITS[name] * 1000) for name in names)


#: The key that holds the time of the scripts, in microseconds.
CLOCK = "test:clock"


@dataclass
class Dump:
    """Everything in the database, by key."""

    values: dict[str, Any]
    kept: set[str]  #: the keys that expire
    events: list[tuple[str, dict[str, str]]]  #: what was written to `events` since the dump before

    def fields(self, key: str) -> dict[str, str]:
        return self.values.get(key, {})

    def members(self, key: str) -> set[str]:
        return self.values.get(key, set())

    def scores(self, key: str) -> dict[str, float]:
        return self.values.get(key, {})

    def _records(self, kind: str) -> Iterator[tuple[str, dict[str, str]]]:
        for key, value in self.values.items():
            if key.startswith(kind) and key.count(":") == 1 and isinstance(value, dict) and value.keys() - {""}:
                yield key.partition(":")[2], value

    def __post_init__(self) -> None:
        self.sessions = {i: f for i, f in self._records("session:") if "status" in f}
        self.agents = {i: f for i, f in self._records("agent:") if "state" in f}
        self.now = int(self.values.get(CLOCK, 0)) / 1000
        self.live = {i: f for i, f in self.sessions.items() if f["status"] in LIVE_SESSION_STATES}
        self.queued = self.of("queued")
        self.served = self.live.keys() - self.queued
        self.unbound = self.of("starting")

    def of(self, *states: str) -> set[str]:
        """The ids of the sessions in these states."""
        return {i for i, f in self.sessions.items() if f["status"] in states}

    def agents_of(self, *states: str) -> set[str]:
        """The ids of the agents in these states."""
        return {i for i, f in self.agents.items() if f["state"] in states}

    def held(self, user: str) -> set[str]:
        """A user's live sessions."""
        return {i for i, f in self.live.items() if f["userId"] == user}

    def fresh(self, agent: str) -> bool:
        """Whether an agent's heartbeat is recent."""
        return int(self.now) - int(self.agents[agent].get("lastBeat", 0)) <= ms("heartbeat_timeout_seconds")

    @property
    def warm(self) -> set[str]:
        """The agents that can be handed out."""
        return {
            i for i in self.members("pool:ready") if self.agents.get(i, {}).get("state") == "ready" and self.fresh(i)
        }

    @property
    def failures(self) -> int:
        return int(self.fields("pool:breaker").get("failures", 0))

    def boot_failures(self, node: str) -> int:
        """How many boots have failed in a row on a node."""
        return int(self.values.get(f"node:{node}:failures", 0))

    @property
    def in_service(self) -> set[str]:
        """The nodes that live and take sessions."""
        living = {i for i in self.members("nodes") if f"node:{i}" in self.values}
        return living - self.members("nodes:draining")

    def difference(self, other: "Dump", ignored: Iterable[str] = ()) -> dict[str, tuple[Any, Any]]:
        """What differs between two dumps, apart from the clock and a key that lives for two real seconds."""
        names = (self.values.keys() | other.values.keys()) - {CLOCK, "pool:refill"} - set(ignored)
        pairs = {name: (self.values.get(name), other.values.get(name)) for name in sorted(names)}
        return {name: (ours, theirs) for name, (ours, theirs) in pairs.items() if ours != theirs}
