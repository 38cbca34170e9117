"""The settings of calls: how many agents and sessions there may be, and how long each step may take."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from orchestrator.config.fields import OptionalSeconds, Seconds
from orchestrator.config.node import NodeSettings

#: The settings that the Lua scripts decide by.
POLICY = (
    "max_sessions", "sessions_per_user", "queue_limit", "queue_seconds", "boot_timeout_seconds",
    "start_timeout_seconds", "join_timeout_seconds", "user_join_seconds", "user_gone_seconds", "max_session_seconds",
    "heartbeat_timeout_seconds", "stop_grace_seconds", "shutdown_seconds", "goodbye_seconds", "session_keep_seconds",
    "session_keep_count", "takeover", "max_takeovers", "reconcile_seconds",
)  # fmt: skip


class CallSettings(NodeSettings):
    """The pool, the limits and the timeouts."""

    pool_target: Annotated[int, Field(ge=0, le=500)] = 3
    """Warm agents to keep, on all nodes together; each node keeps at least one."""
    pool_auto: bool = False
    """Size the pool by demand: starts per second times the measured boot time, with a margin."""
    pool_min: Annotated[int, Field(ge=0, le=500)] = 1
    """Smallest target that POOL_AUTO chooses."""
    pool_max: Annotated[int, Field(ge=0, le=500)] = 20
    """Largest target that POOL_AUTO chooses."""
    max_sessions: Annotated[int, Field(ge=1)] = 50
    """Sessions at once; further starts wait in line."""
    node_sessions: Annotated[int, Field(ge=0)] = 0
    """Sessions at once on this node. 0: only MAX_SESSIONS, which counts all nodes together, limits them."""
    sessions_per_user: Annotated[int, Field(ge=1)] = 1
    """Live sessions that one user may have; with 1 a second start returns the first session."""
    queue_limit: Annotated[int, Field(ge=0)] = 100
    """Sessions that may wait in line; further starts are answered 429."""
    queue_seconds: Seconds = 300.0
    """A session that has waited in line this long ends as an error."""
    memory_headroom_mb: Annotated[int, Field(ge=0)] = 256
    """Free memory (MiB, of the machine or its cgroup) below which no agent is started. 0: no check."""
    spawn_concurrency: Annotated[int, Field(ge=1, le=256)] = 16
    """Agents that one node boots at the same time (threads of its Celery worker)."""

    boot_timeout_seconds: Seconds = 20.0
    """An agent that is not warm this long after its spawn is stopped and counts as failed."""
    start_timeout_seconds: Seconds = 30.0
    """A session that has no agent this long after its start ends as an error."""
    join_timeout_seconds: Seconds = 10.0
    """An agent that has not joined its room this long after it was bound is replaced."""
    user_join_seconds: Seconds = 60.0
    """A session whose user has not joined this long after an agent was bound ends."""
    user_gone_seconds: Seconds = 20.0
    """A session whose user has been out of the room this long ends; a quarter of it if the connection was lost."""
    max_session_seconds: Seconds = 1800.0
    """Longest duration of a call."""
    heartbeat_timeout_seconds: Seconds = 8.0
    """An agent without a heartbeat for this long is stopped, and another one takes its call over."""
    reconcile_seconds: Seconds = 45.0
    """Seconds between two comparisons of our sessions with LiveKit's rooms, give or take a third."""
    session_keep_seconds: Seconds = 86_400.0
    """How long the record and the logs of a session are kept after its end."""
    session_keep_count: Annotated[int, Field(ge=10)] = 10_000
    """Most ended sessions to keep records of; the oldest beyond it are deleted with their agents' logs."""
    redis_rewrite_seconds: OptionalSeconds = None
    """Seconds between two rewrites of Redis's append-only file, which remove deleted data from the disk. Unset: 1200
    with the embedded Valkey, never with a Redis of your own. 0: never."""

    takeover: bool = True
    """Replace an agent that dies in a call, in the same room."""
    max_takeovers: Annotated[int, Field(ge=0)] = 2
    """Takeovers of one session; the next death after them ends it."""
    drain_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long calls may go on after SIGTERM."""
    goodbye_seconds: Annotated[float, Field(ge=0)] = 5.0
    """The last part of DRAIN_SECONDS, in which agents say goodbye."""
    kill_window_seconds: OptionalSeconds = None
    """Seconds between the platform's SIGTERM and its SIGKILL, if the platform does not set them itself."""
    agent_memory_limit_mb: Annotated[int, Field(ge=64)] = 1024
    """Private memory (MiB) above which the health check stops an agent."""
    log_lines: Annotated[int, Field(ge=10, le=100_000)] = 500
    """Log lines kept per agent."""

    @property
    def policy(self) -> dict[str, float]:
        """The settings that the Lua scripts read from the hash `policy`, with their own names and units."""
        return {name: float(getattr(self, name)) for name in POLICY}

    @property
    def agent_token_seconds(self) -> int:
        """Lifetime of an agent's room token: a takeover near the end of the longest call must still connect."""
        waits = self.queue_seconds + self.start_timeout_seconds + self.user_join_seconds
        return int(waits + self.max_session_seconds + 300)

    @property
    def room_empty_seconds(self) -> int:
        """How long LiveKit keeps a room that no user has joined: longer than our own timeout, which thus decides."""
        return int(self.user_join_seconds + self.start_timeout_seconds + 30)

    @property
    def room_departure_seconds(self) -> int:
        """How long LiveKit keeps a room that its user has left: longer than our own timeout and a takeover."""
        return int(self.user_gone_seconds + self.join_timeout_seconds + 30)

    @model_validator(mode="after")
    def _heartbeats_fit(self) -> Self:
        if self.heartbeat_timeout_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                f"HEARTBEAT_TIMEOUT_SECONDS={self.heartbeat_timeout_seconds:g} is less than two of "
                f"HEARTBEAT_SECONDS={self.heartbeat_seconds:g}: one late heartbeat would stop a healthy agent"
            )
        return self
