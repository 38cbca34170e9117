"""Bodies and answers of the session routes."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from orchestrator.api.schemas.base import METADATA_BYTES, ROOM, SESSION, Body, Code, Params, Reply, example
from orchestrator.models import JOB_USERS, SessionId, UserId


def _not_a_job(user_id: str) -> str:
    # guard: reserved-user
    if re.match(JOB_USERS, user_id):
        raise ValueError("ids with this prefix are reserved for LiveKit's rooms; add a prefix of your own")
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
        default=None, description="True: an earlier start began this session, and the user may be in it."
    )
    task_id: str | None = Field(default=None, description="The Celery task that starts the agent.")
    client_secret: str | None = Field(
        default=None,
        description="For the user's browser: as `Authorization: Bearer` valid for this session alone, until 10 minutes "
        "after its end.",
    )
    position: int | None = Field(default=None, description="While queued or starting: 1 is next.")
    estimated_wait: str | None = Field(
        default=None, description="For people, from measured boots and session lengths; null before any was measured."
    )
    estimated_wait_seconds: float | None = Field(default=None, description="The same as a number.")


class Event(BaseModel):
    """Something that happened to a session. Further fields depend on the state."""

    model_config = ConfigDict(
        extra="allow", populate_by_name=True, json_schema_extra={"examples": [{"at": 0.0, "state": "ready"}]}
    )
    at: float = Field(description="Seconds since the session's start.")
    state: str
    told_next: bool | None = Field(default=None, alias="toldNext", description="True: the next event tells of it too.")


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
    cause_code: Code = None
    cause_params: Params = None
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
    reason_code: Code = None
    reason_params: Params = None
    cause: str | None = Field(default=None, description="Why its last agent was replaced, in the form of `reason`.")
    cause_code: Code = None
    cause_params: Params = None
    position: int | None = Field(default=None, description="While queued or starting: 1 is next.")
    estimated_wait: str | None = Field(default=None, description="For people.")
    estimated_wait_seconds: float | None = Field(default=None, description="The same as a number.")
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
    """The log lines of the session's agents, oldest first."""

    model_config = example(
        success=True, sessionId=SESSION,
        logs=["2026-01-01 12:00:00,101 INFO agent joined room_0d1c2b3a", "[agent exited with code 0]"], complete=True,
    )  # fmt: skip
    session_id: str
    logs: list[str]
    complete: bool = Field(description="No more lines follow: it is over, and the last line of each agent is there.")
