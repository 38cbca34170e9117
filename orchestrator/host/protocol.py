"""The conversation between the agent host and its clients: one JSON object per line over a Unix socket.

A client asks with `id` and `op`; the host answers with the same `id` and either `ok` or `error`.

    hello                             → agents: [Process…], deaths: [Death…] not yet acknowledged, warning
    spawn  agentId                    → process: Process
    stop   agentId, grace             → stopping: whether there was anything to stop
    ack    agentId                    → forgets a death and removes its log file
    reload                            → the agent's module is being tried in a process of its own; every client
                                        receives the result. A second one joins the first.

Without a request, every client receives `{"event": "died", "death": Death}` at once, and at the end of a reload
`{"event": "reload", "error": null | "what went wrong"}`. After one without error the host loads the new code: it closes
its connections and listens again when it has done so, with the same pid and the same agents.
"""

from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.reasons import Reason, exit_of

#: Longest line either side accepts, in bytes.
MAX_LINE = 1 << 20


@dataclass(frozen=True, slots=True)
class Process:
    """A living agent process."""

    agent_id: str
    pid: int
    start_ticks: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Death:
    """An agent process that is gone. Exit code and signal are None where only its parent could have seen them."""

    agent_id: str
    pid: int
    start_ticks: int
    boot_id: str
    exit_code: int | None = None
    signal: int | None = None
    peak_memory_kib: int | None = None
    stopped: bool = False  #: the host had sent it TERM
    killed: bool = False  #: it had to be killed

    @property
    def reason(self) -> Reason:
        """How the process ended, as its parent saw it."""
        return exit_of(self.exit_code, self.signal)


def encode(record: Process | Death) -> dict[str, Any]:
    """Return a record as JSON-able fields."""
    return asdict(record)
