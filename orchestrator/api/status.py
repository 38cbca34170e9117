"""The routes of the status page: everything at once, changes as they happen, and logs as they are written."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from orchestrator.api import log_stream
from orchestrator.api.change_feed import wait_for_event
from orchestrator.api.dependencies import ServicesDep, SessionDep, administrator
from orchestrator.api.gate import gated
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.api.schemas.base import SESSION
from orchestrator.api.schemas.status import StatusReply
from orchestrator.api.status_view import Sections, StatusView, changes
from orchestrator.errors import StoreUnavailable, TooManyListeners

#: Streams of these two kinds that one api keeps open.
SEATS = 32
#: Seconds between two messages to one listener, at least and at most.
LEAST_SECONDS, MOST_SECONDS = 0.5, 2.0

router = APIRouter(prefix="/api", tags=["admin"], route_class=gated(administrator), responses=PROBLEM_RESPONSES)


def install(app: FastAPI) -> None:
    """Serve the routes; their shared state is the app's."""
    app.state.status_view, app.state.seats = StatusView(), asyncio.Semaphore(SEATS)
    app.include_router(router)


async def _status_view(request: Request) -> StatusView:
    view: StatusView = request.app.state.status_view
    return view


async def _seat(request: Request) -> AsyncIterator[None]:
    seats: asyncio.Semaphore = request.app.state.seats
    if seats.locked():
        raise TooManyListeners(retry_after=10)
    async with seats:
        yield


async def _changed(services: ServicesDep) -> AsyncIterator[asyncio.Event]:
    with services.feed.listen() as changed:
        yield changed


StatusViewDep = Annotated[StatusView, Depends(_status_view)]
#: Of a route that streams.
SEATED = [Depends(_seat)]
LINES = json.dumps({"agentId": SESSION, "lines": ["INFO agent joined room_0d1c2b3a"], "missed": 0})


def streaming(example: str) -> dict[int | str, dict[str, Any]]:
    """Return how a route that streams is documented."""
    return {200: {"content": {"text/event-stream": {"example": example}}}}


@router.get("/status", summary="Everything at once", response_model_exclude_none=True)
async def status(services: ServicesDep, view: StatusViewDep) -> StatusReply:
    """Return what the status page shows: health, sessions, agents, measured times, beat, the last failures."""
    return StatusReply.model_validate(await view.read(services))


@router.get(
    "/status/events",
    summary="Everything, pushed",
    response_class=EventSourceResponse,
    dependencies=SEATED,
    responses=streaming('event: change\ndata: {"at": 1767268800.5, "gone": ["' + SESSION + '"]}\n\n'),
)
async def status_events(
    services: ServicesDep, view: StatusViewDep, changed: Annotated[asyncio.Event, Depends(_changed)]
) -> AsyncIterator[ServerSentEvent]:
    """Push what `GET /api/status` returns, then what has changed of it, at most twice a second.

    `snapshot`: everything. `change`: the sections that differ; of `sessions` those that do, and which are `gone`.
    `trouble`: why nothing can be read now. A message is sent at least every two seconds.
    """
    before: Sections = {}
    while not services.feed.closed.is_set():
        changed.clear()
        sent = time.monotonic()
        try:
            now = await view.read(services)
        except StoreUnavailable as failure:
            before = {}
            yield ServerSentEvent(event="trouble", data={"detail": failure.detail})
        else:
            data: dict[str, Any] = changes(before, now) if before else now
            yield ServerSentEvent(event="change" if before else "snapshot", data=data)
            before = now
        await wait_for_event(changed, MOST_SECONDS)
        # A burst of changes is sent as one message.
        await wait_for_event(services.feed.closed, LEAST_SECONDS - (time.monotonic() - sent))


Place = Annotated[str, Header(alias="Last-Event-ID", pattern=log_stream.POSITION_PATTERN, max_length=4096)]


@router.get(
    "/session/{session_id}/logs/events",
    summary="A session's logs, pushed",
    response_class=EventSourceResponse,
    dependencies=SEATED,
    responses=streaming(f"event: lines\ndata: {LINES}\nid: {SESSION}:1\n\n"),
)
async def log_events(
    session: SessionDep, services: ServicesDep, last_event_id: Place = ""
) -> AsyncIterator[ServerSentEvent]:
    """Push the log lines of the session's agents as they come; `Last-Event-ID` resumes where a listener stopped.

    `lines`: `agentId`, `lines`, and how many were `missed` before them. `end`: no more lines will come.
    """
    sent_up_to = log_stream.parse_position(last_event_id)
    with contextlib.suppress(StoreUnavailable):  # the client reconnects
        async for event in log_stream.follow(
            services.store, log_stream.of_session(session.id), sent_up_to, services.feed.closed
        ):
            yield event
