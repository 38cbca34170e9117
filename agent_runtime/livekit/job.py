"""The job that LiveKit's own worker would have been given: made from a session's assignment.

A session that LiveKit dispatched brings LiveKit's own job (its id, attributes, room sid, recording flags). Any other
session gets one with the session's id, whose metadata is that of the start request.
"""

import base64
import json
import logging
import time

from google.protobuf.message import DecodeError
from livekit.agents import AgentServer, JobRequest
from livekit.agents.job import JobAcceptArguments, RunningJobInfo
from livekit.protocol import agent as wire
from livekit.protocol import models

from agent_runtime.context import AgentContext
from orchestrator.reasons import because

log = logging.getLogger("agent.livekit")


def of_session(context: AgentContext, agent_name: str) -> wire.Job:
    """Return the job of a session."""
    job = wire.Job()
    try:
        job.ParseFromString(base64.b64decode(context.job))
    except (ValueError, DecodeError):
        log.warning("LiveKit's job cannot be read: the agent gets one with the session's id")
        job = wire.Job()
    if not job.id:
        job = wire.Job(
            id=context.session_id, type=wire.JobType.JT_ROOM, room=models.Room(name=context.room_name),
            agent_name=agent_name, metadata=_text(context),
        )  # fmt: skip
    job.attributes["orchestrator.sessionId"] = context.session_id
    job.attributes["orchestrator.userId"] = context.user_id
    job.attributes["orchestrator.takeovers"] = str(context.takeovers)
    return job


def _text(context: AgentContext) -> str:
    """Return the metadata as LiveKit's dispatch carries it: text that was no JSON object came in one (see the api)."""
    metadata = dict(context.metadata)
    if set(metadata) == {"metadata"} and isinstance(metadata["metadata"], str):
        return metadata["metadata"]
    return json.dumps(metadata) if metadata else ""


def running(context: AgentContext, job: wire.Job, accepted: JobAcceptArguments, agent_id: str) -> RunningJobInfo:
    """Return the job as LiveKit's job process takes it."""
    now = time.time()
    return RunningJobInfo(
        accept_arguments=accepted, job=job, url=context.url, token=context.token, worker_id=agent_id, fake_job=False,
        received_at=now, accepted_at=now, assigned_at=now, launched_at=now,
    )  # fmt: skip


async def accept(server: AgentServer, context: AgentContext, job: wire.Job) -> JobAcceptArguments | None:
    """Ask the agent's `on_request` whether it takes the job; without one it does.

    Returns None, and ends the session, if it refuses. The identity stays ours: by it LiveKit removes a dead agent.
    """
    answers: list[JobAcceptArguments | None] = []

    async def on_reject(_: bool) -> None:
        answers.append(None)

    async def on_accept(given: JobAcceptArguments) -> None:
        answers.append(given)

    if server._request_fnc is None:
        return JobAcceptArguments(name="", identity="", metadata="")
    try:
        await server._request_fnc(JobRequest(job=job, on_reject=on_reject, on_accept=on_accept))
    except Exception:
        log.exception("on_request failed")
    answer = answers[0] if answers else None
    if answer is None:
        context.leave(because("agent_ended_call", detail="its on_request refused the job"))
    return answer
