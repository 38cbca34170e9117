"""The log of one agent process, whether it served a session or not: an agent that did not boot has no session."""

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import Field

from orchestrator.api import log_stream
from orchestrator.api.dependencies import ServicesDep, SessionPath, administrator
from orchestrator.api.gate import gated
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.api.schemas.base import SESSION, Reply, example
from orchestrator.api.schemas.sessions import AgentRecord
from orchestrator.api.sessions import agent_record
from orchestrator.api.status import LINES, SEATED, Place, streaming
from orchestrator.errors import NotFound, StoreUnavailable
from orchestrator.models import Agent

# guard: agent-log-for-admin
router = APIRouter(prefix="/api", tags=["admin"], route_class=gated(administrator), responses=PROBLEM_RESPONSES)


class AgentLogsReply(Reply):
    """One agent's log, oldest line first, and its record."""

    model_config = example(
        success=True, agentId=SESSION,
        agent={
            "agentId": SESSION, "pid": 4242, "node": "node-1", "status": "exited",
            "cause": "boot_error: exited with code 1: ModuleNotFoundError: No module named 'my_agent'", "exitCode": 1,
        },
        logs=["ModuleNotFoundError: No module named 'my_agent'", "[agent exited with code 1]"], complete=True,
    )  # fmt: skip
    agent_id: str
    agent: AgentRecord | None = Field(default=None, description="Missing when only the log is kept.")
    logs: list[str]
    complete: bool = Field(description="No more lines follow: the agent has exited, and its last line is there.")


async def _agent(agent_id: SessionPath, services: ServicesDep) -> Agent | None:
    """Return an agent's record, None when only its log is kept. Raises `NotFound` when neither is."""
    agent = await services.store.agent(agent_id)
    if agent is None and not await services.store.logs(agent_id, 1):
        raise NotFound(f"There is no agent {agent_id}, or its record has expired.")
    return agent


AgentDep = Annotated[Agent | None, Depends(_agent)]


@router.get("/agents/{agent_id:session}/logs", summary="Read an agent's logs", response_model_exclude_none=True)
async def logs(
    agent_id: SessionPath, agent: AgentDep, services: ServicesDep, limit: Annotated[int, Query(ge=1, le=10_000)] = 200
) -> AgentLogsReply:
    """Return the log of one agent process, oldest line first; also of an agent that did not boot, for
    `SESSION_KEEP_SECONDS`."""
    # Read before the lines: every line that it speaks of is then among them.
    complete = await services.store.logs_closed([agent_id])
    lines = await services.store.logs(agent_id, limit)
    return AgentLogsReply(agent_id=agent_id, agent=agent and agent_record(agent), logs=lines, complete=complete)


@router.get(
    "/agents/{agent_id:session}/logs/events",
    summary="An agent's logs, pushed",
    response_class=EventSourceResponse,
    dependencies=[Depends(_agent), *SEATED],
    responses=streaming(f"event: lines\ndata: {LINES}\nid: {SESSION}:1\n\n"),
)
async def log_events(
    agent_id: SessionPath, services: ServicesDep, last_event_id: Place = ""
) -> AsyncIterator[ServerSentEvent]:
    """Push what one agent process prints, in the same form as a session's logs."""
    sent_up_to = log_stream.parse_position(last_event_id)
    with contextlib.suppress(StoreUnavailable):  # the client reconnects
        async for event in log_stream.follow(
            services.store, log_stream.of_agent(agent_id), sent_up_to, services.feed.closed
        ):
            yield event
