"""What the status page reads: all at once, what changes as it does, and the logs of a session as they are written."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from orchestrator.api import following
from orchestrator.api.board import Board, Sections, changes
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.api.schemas import StatusReply
from orchestrator.api.services import ServicesDep, require_admin
from orchestrator.api.sessions import SessionPath
from orchestrator.errors import StoreUnavailable, TooManyListeners
from orchestrator.pool.assignment import require

#: Listeners of one api, and of what: each holds a connection open.
MOST_LISTENERS = 32
#: Seconds between two messages to one listener, at least and at most.
LEAST_SECONDS, MOST_SECONDS = 0.5, 0.6

router = APIRouter(prefix="/api", tags=["admin"], dependencies=[Depends(require_admin)], responses=PROBLEM_RESPONSES)


class Seats:
    """Bounds how many listen at the same time."""

    def __init__(self, most: int) -> None:
        self._free = most

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Take a seat for as long as the block runs. Raises `TooManyListeners`."""
        if not self._free:
            raise TooManyListeners(retry_after=10)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


def install(app: FastAPI) -> None:
    """Serve the routes; what they share is the app's."""
    app.state.board, app.state.seats = Board(), Seats(MOST_LISTENERS)
    app.include_router(router)


async def _board(request: Request) -> Board:
    found: Board = request.app.state.board
    return found


async def _seat(request: Request) -> AsyncIterator[None]:
    with request.app.state.seats.taken():
        yield


BoardDep = Annotated[Board, Depends(_board)]
_SEATED = [Depends(_seat)]


@router.get("/status", summary="Everything at once")
async def status(parts: ServicesDep, board: BoardDep) -> StatusReply:
    """Return what the status page shows: health, sessions, agents, measured times, beat, the last failures."""
    return StatusReply.model_validate(await board.read(parts))


@router.get(
    "/status/events", summary="Everything, pushed", response_class=EventSourceResponse, dependencies=_SEATED
)  # fmt: skip
async def status_events(parts: ServicesDep, board: BoardDep) -> AsyncIterator[ServerSentEvent]:
    """Push what `GET /api/status` returns, then what has changed of it, at most twice a second.

    `snapshot`: everything. `change`: the sections that differ; of `sessions` those that do, and which are `gone`.
    `trouble`: why nothing can be read now. Something is sent at least every two seconds.
    """
    before: Sections = {}
    with _listen(parts) as changed:
        while True:
            changed.clear()
            sent = time.monotonic()
            try:
                now = await board.read(parts)
            except StoreUnavailable as failure:
                before = {}
                yield ServerSentEvent(event="trouble", data={"detail": failure.detail})
            else:
                data: dict[str, Any] = changes(before, now) if before else now
                yield ServerSentEvent(event="change" if before else "snapshot", data=data)
                before = now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MOST_SECONDS):
                    await changed.wait()
            await asyncio.sleep(max(0, LEAST_SECONDS - (time.monotonic() - sent)))


@contextlib.contextmanager
def _listen(parts: Any) -> Iterator[asyncio.Event]:
    yield asyncio.Event()  # TEMPORARY until the feed is there


async def _known(session_id: SessionPath, parts: ServicesDep) -> None:
    await require(parts.store, session_id)


async def _place(last_event_id: Annotated[str, Header()] = "") -> dict[str, int]:
    return following.place(last_event_id)


@router.get(
    "/session/{session_id}/logs/events",
    summary="A session's logs, pushed",
    response_class=EventSourceResponse,
    dependencies=[Depends(_known), *_SEATED],
)
async def log_events(
    session_id: SessionPath, parts: ServicesDep, seen: Annotated[dict[str, int], Depends(_place)]
) -> AsyncIterator[ServerSentEvent]:
    """Push what the session's agents print, as they do; `Last-Event-ID` goes on where a listener stopped.

    `lines`: `agentId`, `lines`, and how many were `missed` before them. `end`: nothing more will come.
    """
    with contextlib.suppress(StoreUnavailable):  # the listener comes back
        async for event in following.follow(parts.store, session_id, seen):
            yield event
