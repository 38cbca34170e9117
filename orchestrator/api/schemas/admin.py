"""Bodies and answers of the admin routes."""

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field

from orchestrator.api.schemas.base import Body, Reply, example
from orchestrator.api.schemas.sessions import SessionReply


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
        raise ValueError("must be a number, not true or false")  # noqa: TRY004 - pydantic turns this one into an answer
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
    warm: int = Field(description="Warm agents among them.")
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
        success=True, reloadId="7f3a", nodes={"node-1": "done"}, failed=[], stale=0, done=True,
        message="New agent code is live.",
    )  # fmt: skip
    reload_id: str
    nodes: dict[str, str] = Field(description="Of each node: waiting, running, done, or what went wrong.")
    failed: list[str] = Field(description="The nodes on which it went wrong.")
    stale: int = Field(description="Warm agents on older code that are still to be replaced.")
    done: bool
    message: str
