"""The answer of `GET /api/health`."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from orchestrator.api.schemas.base import Code, Params, Reply, example
from orchestrator.reasons import Param


class BreakerReply(Reply):
    """The circuit breaker of agent boots."""

    model_config = example(success=True, state="open", failures=6, cause="boot_error: exited with code 1", retryIn=31.5)
    state: str = Field(description="closed; open: agents do not boot, starts on an empty pool are refused; half-open.")
    failures: int = Field(default=0, description="Boots that failed in a row.")
    cause: str | None = None
    cause_code: Code = None
    cause_params: Params = None
    agent_id: str | None = Field(default=None, description="Its boot failed last: `GET /api/agents/{id}/logs`.")
    retry_in: float = Field(default=0, description="Seconds until the next attempt.")


class NodeBrief(BaseModel):
    """What every caller sees of a node."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, from_attributes=True)
    host: bool = Field(description="Whether its agent host is connected.")
    draining: bool
    last_beat: int | None = Field(default=None, description="When its Celery worker last reported, in Unix seconds.")


class NodeHealth(NodeBrief):
    """What the operator sees of a node."""

    pid: int | None = Field(default=None, description="Of its Celery worker.")
    boot_id: str = Field(description="Of its machine.")
    host_warning: str
    canary_age: int = Field(description="Seconds since its Celery worker last took a task.")
    version: str | None = None
    incarnation: str = Field(alias="life", description="Another one for each start of its Celery worker.")
    twin: bool = Field(description="Whether another node has the same NODE_ID.")
    max_sessions: int = Field(alias="sessions", description="NODE_SESSIONS; 0: no bound of its own.")
    spare_bytes: int | None = Field(default=None, description="Memory that is left for agents.")
    goodbye_ms: int | None = Field(default=None, description="While it drains: how long agents have for a goodbye.")
    restarted: str = Field(description="Which of its programs were restarted often.")
    serves: dict[str, str] = Field(description="Settings that nodes of one orchestrator share.")
    strangers: str = Field(description="Other programs that were seen in its queues.")


class RegistrationReply(BaseModel):
    """How an api process is registered with LiveKit as a worker."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, from_attributes=True)
    node: str
    agent_name: str
    registered: bool
    since: int = Field(description="When it was last registered or lost, in Unix seconds.")
    worker_id: str = Field(description="LiveKit's id of it.")
    jobs: int = Field(description="LiveKit's jobs that it follows.")
    full: str = Field(description="Why it takes no job now; empty when it does.")
    error: str


class ServiceHealth(BaseModel):
    """Whether something that calls need works."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    ok: bool
    trouble: str | None = Field(
        default=None, exclude_if=lambda trouble: trouble is None, description="For the operator: why it does not."
    )


class RedisHealth(ServiceHealth):
    """Whether Redis works: it answers, and takes writes."""

    latency_ms: float = Field(description="How long it took to answer.")


class WarningCode(BaseModel):
    """A warning as data."""

    code: str = Field(description="docs/troubleshooting.md lists them.")
    params: dict[str, Param] = Field(
        default={}, description="What the sentence holds: a node, a program, seconds. Empty for callers."
    )


class HealthReply(Reply):
    """The health of the node and of what it shares with others."""

    model_config = example(
        success=True, status="ok", version="0.1.0", access="open",
        sessions={"pool": 3, "booting": 0, "stale": 0, "queued": 0, "starting": 0, "ready": 0, "active": 1,
                  "target": 3, "max": 50},
        redis={"ok": True, "latencyMs": 0.3}, celery={"queue": 0}, livekit={"ok": True},
        breaker={"state": "closed", "failures": 0, "retryIn": 0},
        nodes={"node-1": {"host": True, "draining": False, "lastBeat": 1767268800, "pid": 4100,
                          "bootId": "1b3f2c9e-7d14-4a0e-9f83-0c5b6a7d8e9f", "hostWarning": "", "canaryAge": 3,
                          "version": "0.1.0", "life": "9c1e5d", "twin": False, "sessions": 0, "spareBytes": 3221225472,
                          "goodbyeMs": None, "restarted": "", "serves": {"AGENT_NAME": "voice-agent"},
                          "strangers": ""}},
        doors={"node-1.4090": {"node": "node-1", "agentName": "voice-agent", "registered": True, "since": 1767268790,
                               "workerId": "AW_6bKpHn2ZtQ3x", "jobs": 1, "full": "", "error": ""}},
        stats={"total_spawned": 7, "total_assigned": 4, "total_hits": 4, "total_misses": 0, "boot_ms_mean": 41.5},
        warnings=[], warningCodes=[],
    )  # fmt: skip
    status: str
    version: str
    access: str = Field(description="open: anyone who reaches the api may start calls; keys: holders of API_KEYS.")
    sessions: dict[str, int]
    redis: RedisHealth
    celery: dict[str, int]
    livekit: ServiceHealth
    breaker: BreakerReply
    sizing: str | None = Field(default=None, description="With POOL_AUTO: why the target is what it is.")
    nodes: dict[str, NodeHealth | NodeBrief]
    doors: dict[str, RegistrationReply] = Field(
        description="For the operator: how each api process is registered with LiveKit."
    )
    stats: dict[str, float] = Field(
        description="Counters since Redis was empty, means in milliseconds, and `configured_target`: the POOL_TARGET "
        "that was set last, missing while POOL_AUTO chooses the target."
    )
    warnings: list[str] = Field(description="What is wrong: with details for the admin token, else fixed sentences.")
    warning_codes: list[WarningCode] = Field(description="The same warnings in the same order, as codes.")
