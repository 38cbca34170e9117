"""The second door: LiveKit asks for an agent, and gets an ordinary session, at once or not at all.

States of a job: asked → (assignment by assign.lua) taken → assigned → running, when the agent is in the room → over.
Messages: see `livekit/agent_worker.py`. What LiveKit asks is decided while it waits, by the script of a start by HTTP,
with the same cap, breaker and memory rules; a job is never put in line, for somebody is on the phone.

Failure cases: full, draining, LiveKit or Redis away, agents that do not boot, metadata too large → not available, and
LiveKit asks the next api; the room has a session → the job is done without us; asked again for a job, also by another
api's door → the same session; not assigned after all → `job_lost`, by a deadline in Redis; this api killed → the calls
go on, the next one takes their jobs over; LiveKit restarted → registered again; what becomes of its calls is as for any
other session.
"""

import asyncio
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

from orchestrator.api.feed import set_within
from orchestrator.api.schemas import METADATA_BYTES
from orchestrator.api.services import Services
from orchestrator.errors import InvalidRequest, OrchestratorError, RoomTaken, StoreUnavailable
from orchestrator.livekit.agent_worker import WorkerConnection
from orchestrator.livekit.jobs import Answer, JobOffer, Outcome, WorkerLoad
from orchestrator.models import ROOM_PATTERN, Session, UserId
from orchestrator.pool.assignment import Request, Started
from orchestrator.states import LIVE_SESSION_STATES, SessionState
from orchestrator.store import Job as StoredJob

log = logging.getLogger("orchestrator.door")

#: What no event tells (memory, LiveKit, a drain) is looked for this often.
LOOK_SECONDS = 0.5
#: Many events in a row are looked at once.
PAUSE_SECONDS = 0.05
#: How long what LiveKit said is tried to be written while Redis does not answer.
WRITE_SECONDS = 6.0
RECORD_SECONDS = 2.5
RECORD_TTL_SECONDS = 15

_user_ids: TypeAdapter[str] = TypeAdapter(UserId)


@contextlib.asynccontextmanager
async def dispatching(parts: Services) -> AsyncIterator[None]:
    """Keep the door open for as long as the api serves."""
    dispatch = Dispatch(parts)
    tasks = [asyncio.create_task(work) for work in (dispatch.door.run(), dispatch.follow())]
    try:
        yield
    finally:
        dispatch.over.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(OrchestratorError):
            await parts.store.forget_door(dispatch.id)


class Dispatch:
    """Decides on LiveKit's jobs, and tells LiveKit how they go."""

    def __init__(self, parts: Services) -> None:
        settings = parts.settings
        assert settings.livekit_url
        assert settings.livekit_api_key
        assert settings.livekit_api_secret
        self._parts, self._store = parts, parts.store
        self._sessions: dict[str, str] = {}  #: of each job that is not over
        self._said_running: set[str] = set()
        self._full = "it is starting"
        self.over = asyncio.Event()  #: the api has stopped
        self._recorded_at = 0.0
        self.id = f"{settings.node_id}.{os.getpid()}"
        secret = settings.livekit_api_secret.get_secret_value()
        self.door = WorkerConnection(settings.livekit_url, settings.livekit_api_key, secret, settings.agent_name, self)

    # What LiveKit says

    async def on_availability(self, job: JobOffer) -> Answer:
        """Give a job its session, or say why there is none."""
        facts = {"job": job.id, "dispatch": job.dispatch_id, "room": job.room}
        try:
            started = await self._start(job)
        except RoomTaken as taken:
            log.info("a job needs nobody: %s", taken.detail, extra=facts)
            return Answer(available=False, terminate=True)
        except OrchestratorError as refused:
            log.warning("a job is not taken: %s", refused.detail, extra=facts)
            return Answer(available=False)
        self._sessions[job.id] = started.session_id
        log.info("a job is taken", extra=facts | {"session_id": started.session_id, "status": started.status})
        # LiveKit would count a job as failed when the participant of this identity leaves, as it does in each takeover:
        # the session's id belongs to nobody in the room, tells who lists dispatches where to look, and leaves it to us
        # to say how the job ends. LiveKit's own token, which the assignment brings, is not used either: it is good for
        # one hour and one identity, comes when the agent is on its way already, and a takeover needs another.
        return Answer(available=True, identity=started.session_id)

    async def on_assignment(self, job: JobOffer) -> None:
        """Keep the session of a job: it is ours."""
        session_id = self._sessions.get(job.id)
        async for attempt in _patiently():
            with attempt:
                session_id = session_id or await self._store.session_of_job(_key(job))
                if session_id:
                    await self._store.job_assigned(session_id)
        if session_id:
            self._sessions[job.id] = session_id
        else:
            await self.door.report_job(job.id, Outcome.FAILED, "there is no session for this job")

    async def on_termination(self, job_id: str) -> None:
        """End the session of a job whose dispatch was deleted."""
        if session_id := self._sessions.get(job_id):
            async for attempt in _patiently():
                with attempt:
                    await self._store.end_session(session_id, SessionState.ENDED, "LiveKit has ended its dispatch")

    def running(self) -> list[str]:
        """Return the jobs that are not over."""
        return list(self._sessions)

    # Starting

    async def _start(self, job: JobOffer) -> Started:
        if self._parts.feed.closed.is_set():
            raise OrchestratorError("the api is stopping")
        request = Request(
            user_of(job.room),
            metadata_of(job.metadata),
            idempotency_key=_key(job),
            room=job.room,
            job=StoredJob(job.id, job.dispatch_id, self._parts.settings.node_id),
        )
        started = await self._parts.assigner.start(request)
        if started.existing:
            raise OrchestratorError(f"the user {request.user_id} has a session in another room")
        if started.status not in LIVE_SESSION_STATES:
            raise OrchestratorError(f"its session {started.session_id} is over")
        await self._parts.queue_for(started, request.idempotency_key)
        return started

    # Telling

    async def follow(self) -> None:
        """Tell LiveKit how full we are and how the jobs go, until `over`. Cancelling alone may not do: redis-py takes
        it for a lost connection."""
        try:
            await self._take_over()
        except Exception:
            log.exception("the jobs of the api that was here before are not known")
        with self._parts.feed.listen() as changed:
            while not self.over.is_set():
                changed.clear()
                try:
                    await self._tell_standing()
                    await self._tell_jobs()
                    await self._record()
                except StoreUnavailable as failure:
                    self._stand(WorkerLoad(jobs=len(self._sessions)), failure.detail)
                except Exception:
                    log.exception("LiveKit is not told how it stands, and will be")
                await asyncio.sleep(PAUSE_SECONDS)
                await set_within(changed, LOOK_SECONDS)

    async def _take_over(self) -> None:
        """Find the jobs of the api of this node that was here before."""
        found: list[Session] = []
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_random_exponential(multiplier=0.25, max=2),
            stop=lambda _: self.over.is_set(),
            retry_error_callback=lambda _: None,
        ):
            with attempt:
                found = await self._store.live_sessions()
        mine = [session for session in found if session.door == self._parts.settings.node_id]
        self._sessions |= {session.job_id: session.id for session in mine if session.job_id}

    async def _tell_standing(self) -> None:
        capacity = await self._store.capacity(self._parts.settings.node_id)
        stopping = self._parts.feed.closed.is_set()
        full = (
            "the api is stopping"
            if stopping
            else _WHY_NOT[capacity.refusal].format(_FULL.get(capacity.detail, capacity.detail))
        )
        load = min(1.0, capacity.live / capacity.most) if capacity.most else 1.0
        draining = stopping or capacity.refusal == "draining"
        self._stand(WorkerLoad(bool(full), load, len(self._sessions), draining), full)

    def _stand(self, standing: WorkerLoad, full: str) -> None:
        if bool(full) is not bool(self._full):
            log.info("LiveKit is told that we are %s", f"full: {full}" if full else "free")
        self._full = full
        self.door.report_load(standing)

    async def _tell_jobs(self) -> None:
        held = dict(self._sessions)
        found = {session.id: session for session in await self._store.session_records(list(held.values()))}
        for job_id, session_id in held.items():
            await self._tell_job(job_id, found.get(session_id))

    async def _tell_job(self, job_id: str, session: Session | None) -> None:
        if session is not None and session.live:
            unsaid = session.joined_at and job_id not in self._said_running
            if unsaid and await self.door.report_job(job_id, Outcome.RUNNING):
                self._said_running.add(job_id)
            return
        failed = session is None or session.status is SessionState.ERROR
        reason = (session and session.reason) or "its record is gone"
        # Said again when LiveKit is back.
        if await self.door.report_job(job_id, Outcome.FAILED if failed else Outcome.SUCCESS, reason if failed else ""):
            self._sessions.pop(job_id, None)
            self._said_running.discard(job_id)

    async def _record(self) -> None:
        """Leave word for `/api/health`, which any api may be asked."""
        registration = self.door.registration
        changed = registration.since > self._recorded_at
        if not changed and time.monotonic() - self._recorded_at < RECORD_SECONDS:
            return
        self._recorded_at = time.monotonic()
        fields: dict[str, str | int] = {
            "node": self._parts.settings.node_id,
            "agentName": self._parts.settings.agent_name,
            "registered": int(bool(registration.worker_id)),
            "since": int(await self._store.now() - (time.monotonic() - registration.since)),
            "workerId": registration.worker_id,
            "jobs": len(self._sessions),
            "full": self._full,
            "error": registration.error,
        }
        await self._store.record_door(self.id, fields, RECORD_TTL_SECONDS)


_WHY_NOT = {
    "": "",
    "unset": "no node has set Redis up",
    "draining": "the node drains",
    "livekit": "LiveKit is away: {}",
    "full": "{}",
    "broken": "agents do not boot: {}",
}
_FULL = {"sessions": "all sessions are taken", "line": "others wait in line"}


def user_of(room: str) -> str:
    """Return whose session it is: of a room that our token endpoint named, its user; else the room stands for them."""
    if re.fullmatch(ROOM_PATTERN, room):
        return f"user-{room.removeprefix('room_')}"
    try:
        return _user_ids.validate_python(f"room:{room}")
    except ValidationError:
        return f"room-sha256:{hashlib.sha256(room.encode()).hexdigest()}"


def metadata_of(text: str) -> dict[str, Any]:
    """Return what an agent is given of a dispatch's metadata: an object as it is, any other text as `metadata`.

    Raises:
        InvalidRequest: it is too large.
    """
    if len(text.encode()) > METADATA_BYTES:
        raise InvalidRequest(f"the dispatch's metadata has {len(text.encode())} bytes, {METADATA_BYTES} are the most")
    if not text:
        return {}
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text, parse_constant=_refuse)
        if isinstance(found, dict):
            return found
    return {"metadata": text}


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _key(job: JobOffer) -> str:
    return f"dispatch:{job.id}"


def _patiently() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=wait_random_exponential(multiplier=0.1, max=1),
        stop=stop_after_delay(WRITE_SECONDS),
        reraise=True,
    )
