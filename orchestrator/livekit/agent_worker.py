"""LiveKit's agent-worker protocol: how LiveKit asks us for an agent. Knows nothing of sessions or Redis.

One websocket to LiveKit's `/agent`, on which this process is registered as a worker (LiveKit's word) of one agent name.

States: away → (connect, register, say how full we are) registered → away when the websocket ends, tried again at once
and then with growing random pauses.
Messages, from us: `register`; `update_worker` at every change and every 2.5 s; the answer to each `availability`;
`update_job`; after a reconnect `migrate_job` with the jobs that still run. From LiveKit: `register` with our worker id;
`availability`, a job to take or not; `assignment`, the job is ours; `termination`, its dispatch was deleted.

How LiveKit's server (1.13) behaves, which this follows:
- Among the workers of a name it draws one, by chance weighted with 1 - load, and asks the next when one is not
  available or its websocket ends. A load of `agents.target_load` (0.7) or more counts as no worker, whatever the status
  says.
- The answer to an `availability` counts for 3 s from the dispatch; a later one is dropped, and nobody else is asked.
- A job is `running` once it is assigned. When a worker's websocket ends nothing happens to its jobs: the agents stay in
  their rooms, and nobody hears of those jobs any more; LiveKit's open server does nothing on `migrate_job`.
- The participant of the identity that the answer names belongs to the job: when it leaves, the job has failed.

Failure cases: LiveKit away → tried for ever, the last error is kept; the key pair refused → the same; LiveKit silent →
noticed by websocket pings; an answer that takes too long → not available; a handler that fails → not available, logged.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any, Protocol

import aiohttp
from google.protobuf.message import DecodeError
from livekit import api
from livekit.protocol import agent as wire
from livekit.protocol.models import ParticipantPermission
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from orchestrator import __version__
from orchestrator.livekit import refusals

log = logging.getLogger("orchestrator.door")

#: Seconds between two `update_worker`, as in LiveKit's own worker.
TELL_SECONDS = 2.5
#: LiveKit drops answers after 3 s, 0.2 s of which it takes to choose whom it asks.
ANSWER_SECONDS = 2.5
#: Connecting and registering together may take this long.
CONNECT_SECONDS = 10.0
#: A message that LiveKit does not take within this time is a connection that is lost.
SEND_SECONDS = 5.0
#: A peer that does not say goodbye holds up the next connection, and the api's stop, for no longer.
CLOSE_SECONDS = 1.0
#: Seconds between two websocket pings; half of it is waited for the answer.
PING_SECONDS = 5.0
#: A registration that held this long is no failed attempt.
STEADY_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 5.0
#: Most of LiveKit's answer to a refused registration that is read, in bytes.
LONGEST_REFUSAL = 2000
#: What LiveKit counts as a full worker: with a load as high as its `agents.target_load` it would send us nothing,
#: though a third of our sessions were free.
FULL_LOAD = 0.7


class Lost(Exception):
    """The connection to LiveKit is gone, or could not be made."""


@dataclass(frozen=True, slots=True)
class Job:
    """What LiveKit asks for: an agent in a room."""

    id: str
    dispatch_id: str
    room: str
    metadata: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a job is taken.

    Not available: LiveKit asks the next worker. Terminate: the job needs nobody, and nobody else is asked.
    """

    available: bool
    identity: str = ""
    terminate: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """How full we are."""

    full: bool = True
    load: float = 1.0  #: 0 to 1: the share of our sessions that is taken
    jobs: int = 0
    draining: bool = False


class Outcome(Enum):
    """What `update_job` says of a job."""

    RUNNING = wire.JobStatus.JS_RUNNING
    SUCCESS = wire.JobStatus.JS_SUCCESS
    FAILED = wire.JobStatus.JS_FAILED


class Handler(Protocol):
    """Who decides on jobs. Each call is a task of its own."""

    async def asked(self, job: Job) -> Answer:
        """Take a job or not. Cancelled when LiveKit waits no more."""

    async def assigned(self, job: Job) -> None:
        """LiveKit has given us a job that we took."""

    async def terminated(self, job_id: str) -> None:
        """LiveKit wants a job to end."""

    def running(self) -> list[str]:
        """Return the ids of the jobs that run."""


@dataclass(slots=True)
class Registration:
    """How it stands with LiveKit."""

    worker_id: str = ""  #: empty while we are not registered
    error: str = ""  #: why the last connection ended, or was not made
    since: float = field(default_factory=time.monotonic)  #: of the last change


class Door:
    """One registration with LiveKit. `run` it as a background task."""

    def __init__(self, url: str, api_key: str, api_secret: str, agent_name: str, handler: Handler) -> None:
        base = url.replace("http", "ws", 1) if url.startswith("http") else url
        self._url = f"{base.rstrip('/')}/agent"
        self._key, self._secret, self._name, self._handler = api_key, api_secret, agent_name, handler
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._standing = Standing()
        self._told = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.registration = Registration()

    async def run(self) -> None:
        """Stay registered until cancelled."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Lost),
            wait=wait_random_exponential(multiplier=0.25, max=LONGEST_PAUSE_SECONDS),
            before_sleep=self._say_lost,
        )
        try:
            async with aiohttp.ClientSession() as http:
                while True:
                    async for attempt in retrying:
                        with attempt:
                            await self._serve(http)
        finally:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def tell(self, standing: Standing) -> None:
        """Say how full we are: LiveKit hears it at once when it has changed."""
        if standing != self._standing:
            self._standing = standing
            self._told.set()

    async def report(self, job_id: str, outcome: Outcome, error: str = "") -> bool:
        """Tell LiveKit how a job goes; False when it could not be told now."""
        update = wire.UpdateJobStatus(job_id=job_id, status=outcome.value, error=error)
        try:
            await self._send(wire.WorkerMessage(update_job=update))
        except Lost:
            return False
        return True

    # The connection

    async def _serve(self, http: aiohttp.ClientSession) -> None:
        """Connect, register, and listen until the connection is lost. Raises `Lost` unless it had held for a while."""
        steady = False
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(CONNECT_SECONDS):
                    self._socket = await stack.enter_async_context(
                        http.ws_connect(
                            self._url,
                            headers=self._headers(),
                            heartbeat=PING_SECONDS,
                            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                        )
                    )
                    worker_id = await self._register(self._socket)
                registered = time.monotonic()
                self.registration = Registration(worker_id)
                log.info("registered with LiveKit", extra={"worker": worker_id, "agent_name": self._name})
                telling = asyncio.create_task(self._keep_telling())
                try:
                    await self._listen(self._socket)
                finally:
                    telling.cancel()
                    steady = time.monotonic() - registered > STEADY_SECONDS
        except aiohttp.WSServerHandshakeError as failure:
            error = await self._refused(http, failure)
        except (Lost, TimeoutError, OSError, DecodeError, aiohttp.ClientError) as failure:
            error = _in_words(failure)
        except Exception as failure:
            log.exception("the registration with LiveKit failed")
            error = repr(failure)
        finally:
            self._socket = None
        if self.registration.worker_id:
            log.warning("the registration with LiveKit is lost", extra={"cause": error})
            self.registration = Registration(error=error)
        self.registration.error = error
        if not steady:
            raise Lost(error)

    async def _refused(self, http: aiohttp.ClientSession, failure: aiohttp.WSServerHandshakeError) -> str:
        """Return in LiveKit's words why it takes no websocket of ours: the handshake's answer has none, a plain request
        has."""
        said, skew = "", 0.0
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with asyncio.timeout(SEND_SECONDS), http.get(_plain(self._url), headers=self._headers()) as answer:
                if answer.status == failure.status:
                    said = (await answer.content.read(LONGEST_REFUSAL)).decode(errors="replace")
                    skew = refusals.skew(answer.headers.get("Date"))
        if not said and failure.status in {401, 403}:
            said = "the key pair is refused"
        return ": ".join(filter(None, (f"LiveKit answered {failure.status} at /agent", refusals.explained(said, skew))))

    def _headers(self) -> dict[str, str]:
        token = api.AccessToken(self._key, self._secret).with_grants(api.VideoGrants(agent=True))
        return {"Authorization": f"Bearer {token.with_ttl(timedelta(minutes=10)).to_jwt()}"}

    async def _register(self, socket: aiohttp.ClientWebSocketResponse) -> str:
        # The permissions are those of LiveKit's own token for the agent, which is not used: see `api/door.py`.
        allowed = ParticipantPermission(
            can_publish=True, can_subscribe=True, can_publish_data=True, can_update_metadata=True, agent=True
        )
        register = wire.RegisterWorkerRequest(
            type=wire.JobType.JT_ROOM, agent_name=self._name, version=__version__, allowed_permissions=allowed
        )
        await self._send(wire.WorkerMessage(register=register))
        answer = await self._receive(socket)
        if not answer.HasField("register"):
            raise Lost(f"LiveKit answered {answer.WhichOneof('message')} to our registration")
        # A worker is free until it says otherwise: say it before anything is asked.
        await self._say_standing()
        if jobs := self._handler.running():
            await self._send(wire.WorkerMessage(migrate_job=wire.MigrateJobRequest(job_ids=jobs)))
        return answer.register.worker_id

    async def _keep_telling(self) -> None:
        with contextlib.suppress(Lost):
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TELL_SECONDS):
                        await self._told.wait()
                await self._say_standing()

    async def _say_standing(self) -> None:
        self._told.clear()
        standing = self._standing
        update = wire.UpdateWorkerStatus(
            status=wire.WorkerStatus.WS_FULL if standing.full else wire.WorkerStatus.WS_AVAILABLE,
            load=standing.load * FULL_LOAD, job_count=standing.jobs, draining=standing.draining,
        )  # fmt: skip
        await self._send(wire.WorkerMessage(update_worker=update))

    async def _send(self, message: wire.WorkerMessage) -> None:
        if self._socket is None:
            raise Lost("not connected")
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._socket.send_bytes(message.SerializeToString())
        except (OSError, TimeoutError, aiohttp.ClientError) as failure:
            raise Lost(_in_words(failure)) from failure

    # What LiveKit says

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            message = await self._receive(socket)
            match message.WhichOneof("message"):
                case "availability":
                    self._soon(self._answer(message.availability.job))
                case "assignment":
                    self._soon(self._handler.assigned(_job(message.assignment.job)))
                case "termination":
                    self._soon(self._handler.terminated(message.termination.job_id))

    @staticmethod
    async def _receive(socket: aiohttp.ClientWebSocketResponse) -> wire.ServerMessage:
        received = await socket.receive()
        if received.type is not aiohttp.WSMsgType.BINARY:
            why = socket.exception() or received.extra or f"code {socket.close_code}"
            raise Lost(f"LiveKit closed the connection ({why})")
        return wire.ServerMessage.FromString(received.data)

    async def _answer(self, asked: wire.Job) -> None:
        job, answer = _job(asked), Answer(available=False)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._handler.asked(job)
        except TimeoutError:
            log.warning("a job is not taken: it was not decided in time", extra={"job": job.id, "room": job.room})
        finally:
            response = wire.AvailabilityResponse(
                job_id=job.id, available=answer.available, terminate=answer.terminate,
                participant_identity=answer.identity,
            )  # fmt: skip
            try:
                await self._send(wire.WorkerMessage(availability=response))
            except Lost as lost:
                log.warning("LiveKit is gone before a job was answered", extra={"job": job.id, "cause": str(lost)})

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)

        def done(finished: asyncio.Task[None]) -> None:
            self._tasks.discard(finished)
            if not finished.cancelled() and (failure := finished.exception()):
                log.error("what LiveKit said could not be done", exc_info=failure)

        task.add_done_callback(done)

    def _say_lost(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            log.warning("not registered with LiveKit, and trying again", extra={"cause": self.registration.error})


def _job(asked: wire.Job) -> Job:
    return Job(asked.id, asked.dispatch_id, asked.room.name, asked.metadata)


def _plain(url: str) -> str:
    return url.replace("ws", "http", 1)


def _in_words(failure: BaseException) -> str:
    if isinstance(failure, TimeoutError):
        return "LiveKit does not answer"
    return str(failure) or type(failure).__name__
