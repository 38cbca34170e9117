"""The answer of `GET /api/status`: everything that the status page shows."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from orchestrator.api.schemas.admin import AgentBrief
from orchestrator.api.schemas.base import SESSION, Code, Params, Reply, example
from orchestrator.api.schemas.health import HealthReply
from orchestrator.api.schemas.sessions import SessionReply


class BeatTask(BaseModel):
    """One periodic task."""

    every: float | None = Field(default=None, description="Seconds between two.")
    last: float | None = Field(default=None, description="When beat last sent it, in Unix seconds.")


class BeatReply(BaseModel):
    """Celery beat."""

    lives: bool
    tasks: dict[str, BeatTask]


class Failure(BaseModel):
    """Something that went wrong."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    at: str
    kind: str = Field(
        description="session (it ended in error), takeover, replacement, boot (of an agent), agent (it crashed)."
    )
    cause: str
    cause_code: Code = None
    cause_params: Params = None
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
