"""What goes in and out of the HTTP API. Bodies are camelCase."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from orchestrator.models import JOB_USERS, SessionId, UserId

SESSION = "prewarm_4f0c2a9d8b7e6f5a4b3c2d1e0f9a8b7c"
ROOM = "room_0d1c2b3a49586776859403a2b1c0d9e8"
WAITING = "session_9e8d7c6b5a4f3e2d1c0b9a8f7e6d5c4b"

#: Largest metadata of a start, as JSON, in bytes.
METADATA_BYTES = 4096


def in_words(seconds: float | None) -> str | None:
    """Return a wait as people read it."""
    return None if seconds is None else f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.2g}s"


#: Largest number of fields of a body, known ones and others: pydantic would make an error of each.
FIELDS = 32
#: Largest number of a participant's attributes.
ATTRIBUTES = 256


def _few(value: object) -> object:
    if isinstance(value, dict) and len(value) > ATTRIBUTES:
        raise ValueError(f"more than {ATTRIBUTES} of them; send less")
    return value


class Given(BaseModel):
    """Something that a caller sends."""

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, values: object) -> object:
        if isinstance(values, dict) and len(values) > FIELDS:
            raise ValueError(f"it has more than {FIELDS} fields; leave out what is not taken here")
        return values


class Body(Given):
    """Base of all bodies."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Reply(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    success: bool = True


def example(**fields: Any) -> ConfigDict:
    """Return a model configuration whose schema carries one example."""
    return ConfigDict(alias_generator=to_camel, populate_by_name=True, json_schema_extra={"examples": [fields]})


class WebhookReply(Reply):
    """What became of a webhook."""

    model_config = example(success=True, result="recorded")
    result: Literal["recorded", "foreign", "replayed", "stale"] = Field(
        description="`foreign`: of a room that is not ours; `replayed`: was recorded before; `stale`: 10 minutes old."
    )


def _not_a_job(user_id: str) -> str:
    if re.match(JOB_USERS, user_id):
        raise ValueError("ids that begin as this one does stand for LiveKit's rooms: put a word of your own in front")
    return user_id


class StartRequest(Body):
    """Start a session."""

    model_config = ConfigDict(**{**example(userId="ada", metadata={"name": "Ada"}), "extra": "forbid"})
    user_id: Annotated[UserId, AfterValidator(_not_a_job)]
    metadata: dict[str, Any] = Field(default_factory=dict, description="Passed to the agent, 4 KB at most.")
    affinity: Literal["node"] | None = Field(
        default=None, description="`node`: by the node that served this user last, if that has a warm agent."
    )

    @field_validator("metadata")
    @classmethod
    def _bounded(cls, metadata: dict[str, Any]) -> dict[str, Any]:
        if metadata and len(json.dumps(metadata)) > METADATA_BYTES:
            raise ValueError(f"metadata is larger than {METADATA_BYTES} bytes as JSON")
        return metadata


class StartReply(Reply):
    """An agent is bound (ready), or one is being started (starting)."""

    model_config = example(
        success=True, sessionId=SESSION, status="ready", message="An agent is ready.", prewarmed=True, latency="1.2ms",
        clientSecret="cs_mM3…",
    )  # fmt: skip
    session_id: str
    status: str
    message: str
    prewarmed: bool
    latency: str = Field(description="Time the server took for this answer.")
    existing: bool | None = Field(
        default=None, description="True: the user had it already: an earlier start began it, and somebody may be in it."
    )
    task_id: str | None = Field(default=None, description="The Celery task that starts the agent.")
    client_secret: str | None = Field(
        default=None,
        description="For the user's browser: as `Authorization: Bearer` good for this session alone, until 10 minutes "
        "after its end.",
    )
    position: int | None = Field(default=None, description="While queued or starting: 1 is next.")
    estimated_wait: str | None = Field(
        default=None, description="From measured boots and session lengths; null before anything was measured."
    )


class Event(BaseModel):
    """Something that happened to a session. Further fields say what belongs to it."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"at": 0.0, "state": "ready"}]})
    at: float = Field(description="Seconds since the session's start.")
    state: str


class AgentRecord(BaseModel):
    """One agent that served a session, and how it ended."""

    model_config = example(
        agentId=SESSION, pid=4242, node="node-1", status="exited", cause="killed by signal 9",
        exitCode=None, signal=9, peakMemory=88080384,
    )  # fmt: skip
    agent_id: str
    pid: int | None = None
    node: str | None = None
    status: str
    cause: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    peak_memory: int | None = Field(default=None, description="Bytes.")


class SessionReply(Reply):
    """One session."""

    model_config = example(
        success=True, sessionId=SESSION, status="active", userId="ada", roomName=ROOM, agentId=SESSION, agentPid=4242,
        node="node-1", prewarmed=True, createdAt="2026-01-01T12:00:00.000Z", startupTime=0.001,
        timings={"ready": 0.001, "agentJoined": 0.21, "active": 0.48}, replacements=0,
    )  # fmt: skip
    session_id: str
    status: str
    user_id: str
    room_name: str
    agent_id: str | None = None
    agent_pid: int | None = None
    node: str | None = None
    prewarmed: bool
    created_at: str
    startup_time: float | None = Field(default=None, description="Seconds from the start to a bound agent.")
    timings: dict[str, float] = Field(
        default_factory=dict, description="Seconds from the start: ready, agentJoined, active, firstAudio, ended."
    )
    reason: str | None = Field(
        default=None, description="Why it ended or failed. For who shows no admin token `code: a fixed sentence`."
    )
    cause: str | None = Field(default=None, description="Why its last agent was replaced; told as `reason` is.")
    position: int | None = Field(default=None, description="While queued or starting: 1 is next.")
    estimated_wait: str | None = None
    task_id: str | None = None
    client: str | None = Field(default=None, description="The address that asked for it.")
    via: str | None = Field(default=None, description="`dispatch`: LiveKit asked for it.")
    dispatch_id: str | None = Field(default=None, description="LiveKit's dispatch.")
    job_id: str | None = Field(default=None, description="LiveKit's job of that dispatch.")
    replacements: int = Field(default=0, description="Agents that were replaced before the call began.")
    takeovers: int = Field(default=0, description="Agents that were replaced in the call.")
    events: list[Event] | None = Field(default=None, description="Its history, oldest first.")
    agents: list[AgentRecord] | None = Field(default=None, description="Every agent that served it.")
    last_log_lines: list[str] | None = Field(
        default=None, description="For the operator, when it is over: the last its agents printed."
    )


class StopRequest(Body):
    """Stop a session."""

    model_config = ConfigDict(**{**example(sessionId=SESSION), "extra": "forbid"})
    session_id: SessionId


class StopReply(Reply):
    """The session is over, now or already."""

    model_config = example(success=True, sessionId=SESSION, status="ended", message="The session is stopped.")
    session_id: str
    status: str
    message: str


class LogsReply(Reply):
    """What the session's agents printed, oldest first."""

    model_config = example(
        success=True, sessionId=SESSION,
        logs=["2026-01-01 12:00:00,101 INFO agent joined room_0d1c2b3a", "[agent exited with code 0]"],
    )  # fmt: skip
    session_id: str
    logs: list[str]


Bounded = Annotated[str, StringConstraints(max_length=512)]


class Dispatch(Given):
    """The agent that LiveKit is to ask for."""

    model_config = ConfigDict(extra="forbid")
    agent_name: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="AGENT_NAME, or nothing."
    )
    metadata: str | None = Field(default=None, description="Passed to the agent, 4 KB at most.")
    deployment: Literal[""] | None = Field(default=None, description="LiveKit's clients send an empty one.")

    @field_validator("metadata")
    @classmethod
    def _bounded(cls, metadata: str | None) -> str | None:
        if metadata and len(metadata.encode()) > METADATA_BYTES:
            raise ValueError(f"metadata is larger than {METADATA_BYTES} bytes")
        return metadata


class RoomConfig(Given):
    """All that a client may say of its room: everything else is chosen by the server."""

    model_config = ConfigDict(extra="forbid")
    agents: Annotated[list[Dispatch], Field(max_length=1)] | None = None


class TokenRequest(Given):
    """LiveKit's token-endpoint request, and our `sessionId`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"sessionId": SESSION, "participant_name": "Ada"}]},
        populate_by_name=True,
    )
    session_id: SessionId | None = Field(default=None, alias="sessionId")
    room_name: Bounded | None = None
    participant_name: Bounded | None = None
    participant_identity: Bounded | None = None
    participant_metadata: Annotated[str, StringConstraints(max_length=4096)] | None = None
    participant_attributes: Annotated[dict[str, Bounded] | None, BeforeValidator(_few)] = None
    room_config: RoomConfig | None = None


class TokenReply(BaseModel):
    """LiveKit's token-endpoint answer (snake_case), and ours."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "success": True, "server_url": "ws://127.0.0.1:7880", "participant_token": "eyJhbGciOi…",
                    "room_name": ROOM, "participant_identity": "user-0d1c2b3a49586776859403a2b1c0d9e8",
                }
            ]
        }
    )  # fmt: skip
    success: bool = True
    server_url: str
    participant_token: str
    room_name: str
    participant_name: str | None = None
    participant_identity: str


class AgentBrief(Reply):
    """One agent process."""

    agent_id: str
    pid: int | None = None
    status: str
    node: str | None = None
    session_id: str | None = None
    memory: int | None = Field(default=None, description="Private memory in bytes at the last health check.")
    health: str | None = Field(default=None, description="What the last health check found.")
    created_at: str = Field(description="When it was announced.")


class AgentInfo(AgentBrief):
    """One agent process, at the time of the answer."""

    age: float = Field(description="Seconds since it was announced.")


class SessionsReply(Reply):
    """All kept sessions and all agents."""

    model_config = example(
        success=True,
        sessions=[SessionReply.model_config["json_schema_extra"]["examples"][0]],  # type: ignore[index]
        agents=[
            {
                "success": True, "agentId": "prewarm_8b7c4f0c2a9d8b7e6f5a4b3c2d1e0f9a", "pid": 4243, "status": "ready",
                "node": "node-1", "sessionId": None, "memory": 9437184, "health": "ok", "age": 61.2,
                "createdAt": "2026-01-01T12:00:00.000Z",
            }
        ],
    )  # fmt: skip
    sessions: list[SessionReply]
    agents: list[AgentInfo]


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")  # noqa: TRY004 - pydantic turns this one into an answer
    return value


class ResizeRequest(Body):
    """Set the number of warm agents."""

    model_config = ConfigDict(**{**example(size=5), "extra": "forbid"})
    size: Annotated[int, Field(ge=0, le=500), BeforeValidator(_no_truth)]


class ResizeReply(Reply):
    """The new target; the pool follows at once."""

    model_config = example(success=True, target=5, pool=3, message="The pool goes from 3 to 5.")
    target: int
    pool: int
    message: str


class NodeReply(Reply):
    """One node, and what still runs on it."""

    model_config = example(
        success=True, node="node-1", draining=True, sessions=3, agents=5, warm=2, host=True, version="0.1.0", heard=1.2
    )
    node: str
    draining: bool
    sessions: int = Field(description="Sessions that its agents serve, or whose room is still to be deleted.")
    agents: int = Field(description="Living agents.")
    warm: int = Field(description="Those of them that are warm.")
    most: int | None = Field(default=None, description="Sessions at once that it may have; null: no bound of its own.")
    host: bool = Field(description="Whether its agent host is connected.")
    short: str | None = Field(default=None, description="Why it starts no agents, when it is short of memory.")
    version: str | None = None
    heard: float | None = Field(default=None, description="Seconds since it last reported; null when it is gone.")


class NodesReply(Reply):
    """Every node that lives."""

    model_config = example(success=True, nodes=[])
    nodes: list[NodeReply]


class ReloadReply(Reply):
    """Whether new agent code is live."""

    model_config = example(
        success=True, reloadId="7f3a", nodes={"node-1": "done"}, stale=0, done=True, message="New agent code is live."
    )
    reload_id: str
    nodes: dict[str, str] = Field(description="Of each node: waiting, running, done, or what went wrong.")
    stale: int = Field(description="Warm agents on older code that are still to be replaced.")
    done: bool
    message: str


class BreakerReply(Reply):
    """How boots go."""

    model_config = example(success=True, state="open", failures=6, cause="boot_error: exited with code 1", retryIn=31.5)
    state: str = Field(description="closed; open: agents do not boot, starts on an empty pool are refused; half-open.")
    failures: int = Field(default=0, description="Boots that failed in a row.")
    cause: str | None = None
    agent_id: str | None = Field(default=None, description="Whose boot failed last: `GET /api/agents/{id}/logs`.")
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
    since: int = Field(description="Since when it is as it is, in Unix seconds.")
    worker_id: str = Field(description="LiveKit's id of it.")
    jobs: int = Field(description="LiveKit's jobs that it follows.")
    full: str = Field(description="Why it takes no job now; empty when it does.")
    error: str


class HealthReply(Reply):
    """What the node knows of itself."""

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
        warnings=[],
    )  # fmt: skip
    status: str
    version: str
    access: str = Field(description="open: anybody who reaches the api may start calls; keys: holders of API_KEYS.")
    sessions: dict[str, int]
    redis: dict[str, Any]
    celery: dict[str, int]
    livekit: dict[str, Any]
    breaker: BreakerReply
    sizing: str | None = Field(default=None, description="With POOL_AUTO: why the target is what it is.")
    nodes: dict[str, NodeHealth | NodeBrief]
    doors: dict[str, RegistrationReply] = Field(
        description="For the operator: how each api process is registered with LiveKit."
    )
    stats: dict[str, float]
    warnings: list[str] = Field(
        description="What is not as it should be, in words: why, where the admin token is shown; fixed sentences else."
    )


class BeatTask(BaseModel):
    """One periodic task."""

    every: float | None = Field(default=None, description="Seconds between two.")
    last: float | None = Field(default=None, description="When beat last sent it, in Unix seconds.")


class BeatReply(BaseModel):
    """What is known of beat."""

    lives: bool
    tasks: dict[str, BeatTask]


class Failure(BaseModel):
    """Something that went wrong."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    at: str
    kind: str = Field(
        description="session (it ended in error), takeover, replacement, boot (of an agent), agent (it died unbidden)."
    )
    cause: str
    session_id: str | None = None
    agent_id: str | None = None


class SessionBrief(SessionReply):
    """One session, without its history."""

    last_event: str = Field(default="", description="Changes when something happens to it.")


class StatusReply(Reply):
    """Everything that the status page shows."""

    model_config = example(
        success=True, at=1767268800.0, queueLimit=100,
        health=HealthReply.model_config["json_schema_extra"]["examples"][0],  # type: ignore[index]
        sessions=[SessionReply.model_config["json_schema_extra"]["examples"][0]],  # type: ignore[index]
        agents=[],
        charts={"start": [[1767268790.0, 0.001]], "firstAudio": [[1767268790.0, 0.61]]},
        beat={"lives": True, "tasks": {"refill": {"every": 30, "last": 1767268795.0}}},
        failures=[{"at": "2026-01-01T12:00:00.000Z", "kind": "takeover", "cause": "killed by signal 9",
                   "sessionId": SESSION, "agentId": SESSION}],
    )  # fmt: skip
    at: float = Field(description="When this was read, in Unix seconds by Redis's clock.")
    queue_limit: int
    health: HealthReply
    sessions: list[SessionBrief] = Field(description="The newest 200, and all that are not over.")
    agents: list[AgentBrief]
    charts: dict[str, list[tuple[float, float]]] = Field(
        description="Of each start and each first sound: when, in Unix seconds, and how long it took."
    )
    beat: BeatReply
    failures: list[Failure] = Field(description="The newest first, 50 at most.")


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "success": False, "type": "about:blank", "title": "Too Many Requests", "status": 429,
                    "code": "rate_limited", "instance": "/api/session/start", "retryAfter": 4,
                    "requestId": "0f7c2c1be2a44a5cb1c3a9d2a4e1f6b7",
                    "detail": "More than 10 starts a minute from this address; try again in 4 s.",
                }
            ]
        }
    )  # fmt: skip
    success: bool = False
    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="For people. Not a word of the node's inside, unless the admin token is shown.")
    code: str = Field(description="For programs: docs/errors.md lists them.")
    instance: str
    retryAfter: int | None = None
    requestId: str | None = Field(default=None, description="As in X-Request-Id: the operator finds why by it.")
    errors: list[dict[str, Any]] | None = None
