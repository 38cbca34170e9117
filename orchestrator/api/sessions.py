"""The session routes: start, get, stop, logs."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from orchestrator.api import caller_view
from orchestrator.api.access import Caller, Role
from orchestrator.api.addresses import client_address
from orchestrator.api.dependencies import (
    CallerDep,
    ServicesDep,
    SessionDep,
    any_caller,
    services_of,
    start_caller,
    visible_session,
)
from orchestrator.api.gate import Limit, gated, idempotency_key
from orchestrator.api.history import marked
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.api.schemas.base import WAITING, wait_fields, why
from orchestrator.api.schemas.sessions import (
    AgentRecord,
    Event,
    LogsReply,
    SessionReply,
    StartReply,
    StartRequest,
    StopReply,
    StopRequest,
)
from orchestrator.api.services import Services
from orchestrator.errors import Forbidden, NotFound, Unauthorized, UserHasSession
from orchestrator.logs import note
from orchestrator.models import Agent, Session
from orchestrator.pool.assignment import SessionRequest, Started
from orchestrator.reasons import because
from orchestrator.states import SessionState
from orchestrator.store import Store

#: Seconds for which a repeated request waits for the answer to the first one.
FIRST_ANSWER_SECONDS = 2.0
#: Log lines in the answer about a session that is over.
LAST_LINES = 20

router = APIRouter(prefix="/api", tags=["sessions"], route_class=gated(any_caller), responses=PROBLEM_RESPONSES)
#: A start is about no existing session, so a client secret does not authorize it.
starting = APIRouter(
    prefix="/api",
    tags=["sessions"],
    route_class=gated(start_caller, Limit("rate", lambda settings: settings.rate)),
    responses=PROBLEM_RESPONSES,
)

_WAITING_EXAMPLE = {
    "success": True, "sessionId": WAITING, "status": "starting", "prewarmed": False, "latency": "2.1ms",
    "message": "An agent is being started. Poll /api/session/:id until it is ready.",
    "taskId": WAITING, "estimatedWait": "0.1s", "estimatedWaitSeconds": 0.1,
}  # fmt: skip
_WAITING: dict[str, Any] = {
    "model": StartReply,
    "description": "No warm agent: one is being started, or the session waits in line.",
    "content": {"application/json": {"example": _WAITING_EXAMPLE}},
}


@starting.post(
    "/session/start",
    summary="Start a session",
    response_model=StartReply,
    responses={202: _WAITING},
)
async def start(body: StartRequest, request: Request) -> Response:
    """Take a warm agent, or have one started, or queue the session. A user's live session is returned again.

    With an `Idempotency-Key` header, a repeated request gets the same answer.

    Without API_KEYS any caller may name any user. So a caller who asks for a session that is already live must send its
    `clientSecret` as `Authorization: Bearer`, or gets 409 `user_has_session`.
    """
    # No dependencies and a finished response: a caller waits here, and each costs FastAPI 30 µs or more.
    begun, services = time.perf_counter(), services_of(request)
    caller: Caller = request.state.caller
    address = client_address(request, services.settings.trusted_proxy)
    # A backend starts calls for many users from one address, so it has no limit by address.
    trusted = caller.role is not Role.ANYBODY
    key = idempotency_key(request, trusted=trusted)
    started = await services.assigner.start(
        SessionRequest(
            body.user_id, body.metadata, address.narrow, address.wide, key, trusted, affinity=body.affinity == "node"
        )
    )
    # guard: session-of-its-starter
    if started.existing:  # and any caller could have named its user
        started = await _own_session(services, caller, body.user_id, started)
    note(session_id=started.session_id)
    secret = services.access.client_secret(started.session_id)
    if started.repeated and (answer := await _first_answer(services, key, secret)):
        return answer
    await services.queue_for(started, key)
    reply = StartReply(
        session_id=started.session_id,
        status=started.status,
        message=_message(started),
        prewarmed=started.prewarmed,
        latency=f"{(time.perf_counter() - begun) * 1000:.3g}ms",
        existing=started.existing or None,
        task_id=started.session_id if started.spawn else None,
        position=started.position,
        **wait_fields(started.estimated_wait),
    )
    content = reply.model_dump_json(by_alias=True, exclude_none=True, exclude={"client_secret"})
    status = 202 if started.status in {SessionState.STARTING, SessionState.QUEUED} else 200
    if key and not started.repeated:
        await services.store.keep_answer(key, f"{status} {content}")
    return _answer(content, status, secret)


async def _own_session(services: Services, caller: Caller, user_id: str, newest: Started) -> Started:
    """Return the user's live session that the caller has begun. Raises `UserHasSession` if there is none."""
    if services.access.began(caller, newest.session_id):
        return newest
    for session_id in await services.store.sessions_of(user_id):
        if services.access.began(caller, session_id):
            return await services.assigner.existing(session_id)
    raise UserHasSession


def _answer(content: str, status: int, secret: str) -> Response:
    """Return the answer to a start. The secret is added here, so that it is never stored."""
    content = f'{content[:-1]},"clientSecret":"{secret}"}}'
    return Response(content, status, media_type="application/json", headers={"Cache-Control": "no-store"})


async def _first_answer(services: Services, key: str, secret: str) -> Response | None:
    """Wait for the answer to the first request with this key; None when there is none in time."""
    deadline = time.monotonic() + FIRST_ANSWER_SECONDS
    while (answer := await services.store.kept_answer(key)) is None:
        if time.monotonic() > deadline:
            return None
        await asyncio.sleep(FIRST_ANSWER_SECONDS / 100)
    status, _, content = answer.partition(" ")
    return _answer(content, int(status), secret)


@router.get("/session/{session_id:session}", summary="Get a session", response_model_exclude_none=True)
async def get_session(session: SessionDep, services: ServicesDep, caller: CallerDep) -> SessionReply:
    """Return a session's status, its agents, its history and, when it is over, the reason and the last log lines.

    Only the operator gets the log lines, and reasons and causes with their details; others get a code and a fixed
    sentence. The session's browser does not get the agents and the address that asked for it.
    """
    reply = describe(session)
    if session.status in {SessionState.QUEUED, SessionState.STARTING}:
        reply.position = await services.store.position(session.id) or 1
        wait = await services.assigner.estimated_wait(session.status, reply.position)
        reply = reply.model_copy(update=wait_fields(wait))
    reply.events = [
        Event.model_validate(event | {"at": round(event["at"] - session.created_at, 3)})
        for event in marked(await services.store.events(session.id))
    ]
    if caller.role is Role.CLIENT:
        reply.client = None
        return caller_view.session(reply)
    reply.agents = [agent_record(agent) for agent in await services.store.agent_records(session.printed_by)]
    # guard: caller-view
    if caller.role is not Role.ADMIN:
        return caller_view.session(reply)
    if not session.live:
        reply.last_log_lines = await _logs(services.store, session, LAST_LINES)
    return reply


async def _logs(store: Store, session: Session, limit: int) -> list[str]:
    lines: list[str] = []
    for agent_id in session.printed_by:
        lines += await store.logs(agent_id, limit)
    return lines[-limit:]


def agent_record(agent: Agent) -> AgentRecord:
    """Return an agent, also one that is gone, as the API shows it."""
    return AgentRecord(
        agent_id=agent.id,
        pid=agent.pid,
        node=agent.node,
        status=agent.state,
        exit_code=agent.exit_code,
        signal=agent.signal,
        peak_memory=agent.peak_memory,
        **why("cause", agent.cause or agent.reason),
    )


#: Why a session is over that was stopped, by the caller's role. On an open api a caller without credentials is unknown.
_STOPPED = {
    Role.CLIENT: because("stopped_by_caller"),
    Role.KEY: because("stopped_by_backend"),
    Role.ADMIN: because("stopped_by_operator"),
    Role.ANYBODY: because("stopped"),
}


@router.post("/session/stop", summary="Stop a session")
async def stop(body: StopRequest, services: ServicesDep, caller: CallerDep) -> StopReply:
    """End a session: its agent leaves, its room is deleted. The reason says who stopped it. Idempotent."""
    await visible_session(services, caller, body.session_id)
    # guard: stopped-by
    ended = await services.store.end_session(body.session_id, SessionState.ENDED, _STOPPED[caller.role])
    if ended is None:
        raise NotFound
    message = "The session is stopped." if ended.first else f"The session was over already ({ended.status})."
    return StopReply(session_id=body.session_id, status=ended.status, message=message)


@router.get(
    "/session/{session_id:session}/logs",
    summary="Read a session's logs",
    openapi_extra={"security": [{"admin": []}]},
)
async def logs(
    session: SessionDep, services: ServicesDep, caller: CallerDep, limit: Annotated[int, Query(ge=1, le=10_000)] = 200
) -> LogsReply:
    """Return the log lines of the session's agents, oldest first, also after their end. Only for the operator: they
    have exceptions, addresses and commands in them."""
    if caller.role is Role.ANYBODY:
        raise Unauthorized("Logs are the operator's: send `Authorization: Bearer <ADMIN_TOKEN>`.")
    # guard: logs-for-admin
    if caller.role is not Role.ADMIN:
        raise Forbidden
    # Read before the lines: every line that it speaks of is then among them.
    complete = not session.live and await services.store.logs_closed(session.printed_by)
    lines = await _logs(services.store, session, limit)
    return LogsReply(session_id=session.id, logs=lines, complete=complete)


def describe(session: Session) -> SessionReply:
    """Return a session as the API shows it."""
    marks = {"ready": session.ready_at, "agentJoined": session.joined_at, "active": session.active_at}
    marks["firstAudio"] = session.first_audio_at
    marks["ended"] = session.ended_at
    return SessionReply(
        session_id=session.id,
        status=session.status,
        user_id=session.user_id,
        room_name=session.room_name,
        agent_id=session.agent_id,
        agent_pid=session.agent_pid,
        node=session.node,
        prewarmed=session.prewarmed,
        created_at=moment(session.created_at),
        startup_time=session.startup_time,
        timings={name: round(at - session.created_at, 3) for name, at in marks.items() if at is not None},
        task_id=session.task_id,
        client=session.client,
        via=session.via,
        dispatch_id=session.dispatch_id,
        job_id=session.job_id,
        replacements=session.replacements,
        takeovers=session.takeovers,
        **why("reason", session.reason),
        **why("cause", session.cause),
    )


def moment(at: float) -> str:
    """Return a time, in Unix seconds, as the API shows it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(started: Started) -> str:
    if started.status is SessionState.QUEUED:
        return f"All sessions are taken: number {started.position} in line. Poll /api/session/{started.session_id}."
    if started.status is SessionState.STARTING:
        return f"An agent is being started. Poll /api/session/{started.session_id} until it is ready."
    if started.existing:
        return "This user has a live session already; this is it."
    return "An agent is ready and joins the room."
