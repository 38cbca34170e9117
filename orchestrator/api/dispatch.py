"""LiveKit's dispatch: LiveKit requests an agent for a room and gets an ordinary session, at once or not at all.

States of a job: offered → accepted (by assign.lua) → assigned → running (the agent is in the room) → over.
Messages: see `livekit/agent_worker.py`. A job is decided while LiveKit waits, by the script of a start by HTTP, with
the same cap, breaker and memory rules. It is never queued, because the user is on the phone already.

Failure cases: full, draining, LiveKit or Redis away, agents that do not boot, metadata too large → not available, and
LiveKit tries the next api; the room has a session → the job ends without us; a job is offered again, also to another
api → the same session; never assigned → `job_lost`, by a deadline in Redis; this api killed → its calls go on, and the
next api of the node takes over its jobs; LiveKit restarted → registered again, its calls go on as any other session's.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator
from typing import Any

from pydantic import TypeAdapter, ValidationError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from orchestrator.api.change_feed import wait_for_event
from orchestrator.api.schemas.base import METADATA_BYTES
from orchestrator.api.services import Services
from orchestrator.errors import InvalidRequest, OrchestratorError, RoomTaken, StoreUnavailable
from orchestrator.livekit.agent_worker import WorkerConnection
from orchestrator.livekit.jobs import Answer, JobOffer, Outcome, WorkerLoad
from orchestrator.livekit.tokens import user_identity
from orchestrator.models import ROOM_PATTERN, Session, UserId
from orchestrator.pool.assignment import SessionRequest, Started
from orchestrator.reasons import because
from orchestrator.states import LIVE_SESSION_STATES, SessionState
from orchestrator.store import DispatchRef

log = logging.getLogger("orchestrator.dispatch")

#: Seconds between two checks for changes without an event: memory, LiveKit, a drain.
POLL_SECONDS = 0.5
#: Seconds in which several events in a row are handled together.
PAUSE_SECONDS = 0.05
#: Seconds for which LiveKit's messages are tried to be written while Redis does not answer.
WRITE_SECONDS = 6.0
RECORD_SECONDS = 2.5
RECORD_TTL_SECONDS = 15

_user_ids: TypeAdapter[str] = TypeAdapter(UserId)


@contextlib.asynccontextmanager
async def dispatching(services: Services) -> AsyncIterator[None]:
    """Stay registered with LiveKit for as long as the api serves."""
    dispatch = DispatchService(services)
    tasks = [asyncio.create_task(work) for work in (dispatch.worker.run(), dispatch.run())]
    try:
        yield
    finally:
        dispatch.stopped.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(OrchestratorError):
            await services.store.forget_registration(dispatch.id)


class DispatchService:
    """Accepts or refuses LiveKit's jobs, and reports their progress and our load to LiveKit."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        assert settings.livekit_url
        assert settings.livekit_api_key
        assert settings.livekit_api_secret
        self._services, self._store = services, services.store
        self._sessions: dict[str, str] = {}  #: session id of each job that is not over
        self._reported_running: set[str] = set()
        self._full = "The api is starting."
        self.stopped = asyncio.Event()  #: the api has stopped
        self._recorded_at = 0.0
        self.id = f"{settings.node_id}.{os.getpid()}"
        secret = settings.livekit_api_secret.get_secret_value()
        self.worker = WorkerConnection(
            settings.livekit_url, settings.livekit_api_key, secret, settings.agent_name, self
        )

    # Messages from LiveKit

    async def on_availability(self, job: JobOffer) -> Answer:
        """Start the session of a job, or refuse the job."""
        facts = {"job": job.id, "dispatch": job.dispatch_id, "room": job.room}
        try:
            started = await self._start(job)
        except RoomTaken as failure:
            log.info("a job needs no agent: %s", failure.detail, extra=facts)
            return Answer(available=False, terminate=True)
        except OrchestratorError as refused:
            log.warning("a job is refused: %s", refused.detail, extra=facts)
            return Answer(available=False)
        self._sessions[job.id] = started.session_id
        log.info("a job is accepted", extra=facts | {"session_id": started.session_id, "status": started.status})
        # LiveKit counts a job as failed when the participant of this identity leaves, as it does in each takeover. The
        # session's id is no participant of the room, so we report how the job ends; and it names the session in lists
        # of dispatches. LiveKit's token from the assignment is not used either: it is valid for one hour and one
        # identity, arrives when the agent is already joining, and a takeover needs another.
        return Answer(available=True, identity=started.session_id)

    async def on_assignment(self, job: JobOffer) -> None:
        """Keep the session of a job: LiveKit has assigned the job to us."""
        session_id = self._sessions.get(job.id)
        async for attempt in _retrying():
            with attempt:
                session_id = session_id or await self._store.session_of_job(_key(job))
                if session_id:
                    await self._store.job_assigned(session_id)
        if session_id:
            self._sessions[job.id] = session_id
        else:
            await self.worker.report_job(job.id, Outcome.FAILED, "there is no session for this job")

    async def on_termination(self, job_id: str) -> None:
        """End the session of a job whose dispatch was deleted."""
        if session_id := self._sessions.get(job_id):
            async for attempt in _retrying():
                with attempt:
                    await self._store.end_session(session_id, SessionState.ENDED, because("call_withdrawn"))

    def running(self) -> list[str]:
        """Return the jobs that are not over."""
        return list(self._sessions)

    # Starting

    async def _start(self, job: JobOffer) -> Started:
        if self._services.feed.closed.is_set():
            raise OrchestratorError("the api is stopping")
        request = SessionRequest(
            user_of(job.room),
            metadata_of(job.metadata),
            idempotency_key=_key(job),
            room=job.room,
            job=DispatchRef(job.id, job.dispatch_id, self._services.settings.node_id),
            livekit_job=base64.b64encode(job.whole).decode(),
        )
        started = await self._services.assigner.start(request)
        if started.existing:
            raise OrchestratorError(f"the user {request.user_id} has a session in another room")
        if started.status not in LIVE_SESSION_STATES:
            raise OrchestratorError(f"its session {started.session_id} is over")
        await self._services.queue_for(started, request.idempotency_key)
        return started

    # Reporting to LiveKit

    async def run(self) -> None:
        """Report our load and the jobs' progress to LiveKit, until `stopped`. Cancellation is not enough: redis-py may
        treat it as a lost connection."""
        try:
            await self._take_over()
        except Exception:
            log.exception("the jobs of this node's last api could not be read")
        with self._services.feed.listen() as changed:
            while not self.stopped.is_set():
                changed.clear()
                try:
                    await self._report_load()
                    await self._report_jobs()
                    await self._record_registration()
                except StoreUnavailable as failure:
                    self._send_load(WorkerLoad(jobs=len(self._sessions)), failure.detail)
                except Exception:
                    log.exception("reporting to LiveKit failed; trying again")
                await asyncio.sleep(PAUSE_SECONDS)
                await wait_for_event(changed, POLL_SECONDS)

    async def _take_over(self) -> None:
        """Take over the jobs of this node's last api."""
        sessions: list[Session] = []
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_random_exponential(multiplier=0.25, max=2),
            stop=lambda _: self.stopped.is_set(),
            retry_error_callback=lambda _: None,
        ):
            with attempt:
                sessions = await self._store.live_sessions()
        mine = [session for session in sessions if session.dispatch_node == self._services.settings.node_id]
        self._sessions |= {session.job_id: session.id for session in mine if session.job_id}

    async def _report_load(self) -> None:
        capacity = await self._store.capacity(self._services.settings.node_id)
        stopping = self._services.feed.closed.is_set()
        refusal = None if stopping else await self._services.assigner.refusal(capacity)
        full = "The api is stopping." if stopping else refusal.detail if refusal else ""
        load = min(1.0, capacity.live / capacity.max_sessions) if capacity.max_sessions else 1.0
        draining = stopping or capacity.refusal == "draining"
        self._send_load(WorkerLoad(bool(full), load, len(self._sessions), draining), full)

    def _send_load(self, load: WorkerLoad, full: str) -> None:
        if bool(full) is not bool(self._full):
            log.info("reporting to LiveKit: %s", f"full: {full}" if full else "free")
        self._full = full
        self.worker.report_load(load)

    async def _report_jobs(self) -> None:
        jobs = dict(self._sessions)
        records = {session.id: session for session in await self._store.session_records(list(jobs.values()))}
        for job_id, session_id in jobs.items():
            await self._report_job(job_id, records.get(session_id))

    async def _report_job(self, job_id: str, session: Session | None) -> None:
        if session is not None and session.live:
            unreported = session.joined_at and job_id not in self._reported_running
            if unreported and await self.worker.report_job(job_id, Outcome.RUNNING):
                self._reported_running.add(job_id)
            return
        failed = session is None or session.status is SessionState.ERROR
        reason = session.reason.text if session and session.reason else "its record is gone"
        outcome = Outcome.FAILED if failed else Outcome.SUCCESS
        # One that does not reach LiveKit is reported again in the next round.
        if await self.worker.report_job(job_id, outcome, reason if failed else ""):
            self._sessions.pop(job_id, None)
            self._reported_running.discard(job_id)

    async def _record_registration(self) -> None:
        """Record the registration in Redis, for the `/api/health` of any api."""
        registration = self.worker.registration
        changed = registration.since > self._recorded_at
        if not changed and time.monotonic() - self._recorded_at < RECORD_SECONDS:
            return
        self._recorded_at = time.monotonic()
        fields: dict[str, str | int] = {
            "node": self._services.settings.node_id,
            "agentName": self._services.settings.agent_name,
            "registered": int(bool(registration.worker_id)),
            "since": int(await self._store.now() - (time.monotonic() - registration.since)),
            "workerId": registration.worker_id,
            "jobs": len(self._sessions),
            "full": self._full,
            "error": registration.error,
        }
        await self._store.record_registration(self.id, fields, RECORD_TTL_SECONDS)


def user_of(room: str) -> str:
    """Return the user id of a room's session: of a room that our token endpoint named its user, else the room."""
    if re.fullmatch(ROOM_PATTERN, room):
        return user_identity(room)
    try:
        return _user_ids.validate_python(f"room:{room}")
    except ValidationError:
        return f"room-sha256:{hashlib.sha256(room.encode()).hexdigest()}"


def metadata_of(text: str) -> dict[str, Any]:
    """Return a dispatch's metadata for the agent: a JSON object as it is, any other text as `metadata`.

    Raises:
        InvalidRequest: it is too large.
    """
    if len(text.encode()) > METADATA_BYTES:
        raise InvalidRequest(f"the dispatch's metadata has {len(text.encode())} bytes, {METADATA_BYTES} are the most")
    if not text:
        return {}
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text, parse_constant=_reject_constant)
        if isinstance(value, dict):
            return value
    return {"metadata": text}


def _reject_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _key(job: JobOffer) -> str:
    return f"dispatch:{job.id}"


def _retrying() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=wait_random_exponential(multiplier=0.1, max=1),
        stop=stop_after_delay(WRITE_SECONDS),
        reraise=True,
    )
