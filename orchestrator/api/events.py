"""A session's events, pushed as server-sent events: its history from the first one on, then each as it happens."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic.alias_generators import to_camel

from orchestrator.api import caller_view
from orchestrator.api.access import Role
from orchestrator.api.change_feed import wait_for_event
from orchestrator.api.dependencies import CallerDep, ServicesDep, SessionDep, any_caller
from orchestrator.api.gate import gated
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.api.schemas.base import wait_fields
from orchestrator.api.services import Services
from orchestrator.errors import StoreUnavailable
from orchestrator.models import Session
from orchestrator.states import SessionState

#: Seconds between two pings: proxies close silent connections.
PING_SECONDS = 15.0
#: Seconds between two reads of a queue position: it changes when others leave, which is no event of this session.
POSITION_SECONDS = 1.0
#: Milliseconds that a client waits before it reconnects.
RETRY_MS = 2000

_EXAMPLE = 'event: state\ndata: {"at": 0.153, "state": "agent_joined"}\nid: 1767268800153-0\n\n'

router = APIRouter(prefix="/api", tags=["sessions"], route_class=gated(any_caller), responses=PROBLEM_RESPONSES)

EventId = Annotated[str, Header(alias="Last-Event-ID", pattern=r"^(\d{1,15}-\d{1,9})?$")]
_MESSAGE = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")} | {"retry": {"type": "integer"}},
}


async def _listening(session: SessionDep, services: ServicesDep) -> AsyncIterator[asyncio.Event]:
    with services.feed.listen(session.id) as changed:
        yield changed


@router.get(
    "/session/{session_id:session}/events",
    summary="Follow a session",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {"itemSchema": _MESSAGE, "example": _EXAMPLE}}},
        204: {"description": "The session is over and all its events were sent: do not reconnect."},
    },
)
async def events(
    session: SessionDep,
    services: ServicesDep,
    caller: CallerDep,
    changed: Annotated[asyncio.Event, Depends(_listening)],
    last_event_id: EventId = "",
) -> Response:
    """Return the session's history and what happens next, as server-sent events; the stream ends with the session.

    `event: state` carries `{"at": seconds since the start, "state": …}` and what belongs to it, with an id for
    `Last-Event-ID`; `event: position` carries the queue position and the estimated wait, at every change. Reasons and
    causes are those of `GET /api/session/{id}`.
    """
    after = last_event_id or "0-0"
    if not session.live and not await services.store.events(session.id, after):
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    # guard: caller-events
    view = dict if caller.role is Role.ADMIN else caller_view.event
    messages = _messages(services, session, after, changed, view)
    return StreamingResponse(messages, headers=headers, media_type="text/event-stream")


async def _messages(
    services: Services,
    session: Session,
    after: str,
    changed: asyncio.Event,
    view: Callable[[dict[str, Any]], dict[str, Any]],
) -> AsyncIterator[bytes]:
    yield format_sse_event(retry=RETRY_MS)
    position: dict[str, Any] = {}
    sent_at = time.monotonic()
    while not services.feed.closed.is_set():
        changed.clear()
        new: list[bytes] = []
        over = waits = False
        with contextlib.suppress(StoreUnavailable):  # the feed wakes every listener when Redis is back
            # The session before its events: one that is over has all of them by now.
            current = await services.store.session(session.id)
            for event in await services.store.events(session.id, after):
                after = event.pop("id")
                event["at"] = round(event["at"] - session.created_at, 3)
                new.append(format_sse_event(event="state", id=after, data_str=json.dumps(view(event))))
            over = current is None or not current.live
            waits = current is not None and current.status is SessionState.QUEUED
            if current and waits and (now := await _position(services, current)) != position:
                position = now
                new.append(format_sse_event(event="position", data_str=json.dumps(position)))
        if not new and time.monotonic() - sent_at >= PING_SECONDS:
            new = [format_sse_event(comment="ping")]
        for message in new:
            sent_at = time.monotonic()
            yield message
        if over:
            return
        remaining = sent_at + PING_SECONDS - time.monotonic()
        await wait_for_event(changed, min(remaining, POSITION_SECONDS) if waits else remaining)


async def _position(services: Services, session: Session) -> dict[str, Any]:
    position = await services.store.position(session.id) or 1
    wait = await services.assigner.estimated_wait(session.status, position)
    return {"position": position} | {to_camel(name): value for name, value in wait_fields(wait).items()}
