"""LiveKit's agent-worker protocol: how LiveKit asks us for an agent. Independent of sessions and Redis.

One websocket to LiveKit's `/agent`, on which this process is registered as a worker of one agent name.

States: disconnected → (connect, register, report the load) registered → disconnected when the websocket ends. The first
new attempt follows at once, later ones after growing random pauses.
Messages from us: `register`; `update_worker` at every change of the load and every 2.5 s; the answer to each
`availability`; `update_job`; after a reconnect `migrate_job` with the jobs that still run. From LiveKit: `register`
with our worker id; `availability`, a job to take or refuse; `assignment`, the job is ours; `termination`, its dispatch
was deleted.

LiveKit's server (1.13) behaves as follows:
- It picks one of the workers of a name at random, weighted with 1 - load, and asks the next one when that is not
  available or its websocket ends. A worker with a load of `agents.target_load` (0.7) or more is never picked, whatever
  its status.
- The answer to an `availability` must arrive within 3 s of the dispatch; a later one is dropped, and no other worker is
  asked.
- A job is `running` once it is assigned. The end of a worker's websocket changes nothing for its jobs: the agents stay
  in their rooms, and the state of those jobs is no longer updated. The open-source server ignores `migrate_job`.
- The participant with the identity that the answer names belongs to the job: when it leaves, the job has failed.

Failure cases: LiveKit is unavailable → retries forever and keeps the last error; it refuses the key pair → the same; it
is silent → websocket pings notice; an answer takes too long → not available; a handler fails → not available, logged.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import aiohttp
from google.protobuf.message import DecodeError
from livekit import api
from livekit.protocol import agent as wire
from livekit.protocol.models import ParticipantPermission
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from orchestrator import __version__
from orchestrator.livekit import refusals
from orchestrator.livekit.jobs import Answer, JobHandler, JobOffer, Outcome, Registration, WorkerLoad

log = logging.getLogger("orchestrator.livekit")

#: Seconds between two `update_worker`, as in LiveKit's own worker.
REPORT_SECONDS = 2.5
#: LiveKit drops answers after 3 s, of which it needs 0.2 s to choose a worker.
ANSWER_SECONDS = 2.5
#: Time limit for connecting and registering together.
CONNECT_SECONDS = 10.0
#: A message that LiveKit does not accept within this time means that the connection is lost.
SEND_SECONDS = 5.0
#: Time limit for LiveKit's part of the closing handshake, which delays the next connection and the api's stop.
CLOSE_SECONDS = 1.0
#: Seconds between two websocket pings; the answer must arrive within half of it.
PING_SECONDS = 5.0
#: A registration that lasted this long does not count as a failed attempt.
STEADY_SECONDS = 5.0
MAX_PAUSE_SECONDS = 5.0
#: Bytes of LiveKit's answer to a refused registration that are read.
MAX_REFUSAL_BYTES = 2000
#: The load that LiveKit takes for a full worker. Without this factor it would send us nothing while a third of our
#: sessions are free.
FULL_LOAD = 0.7

_STATUS = {
    Outcome.RUNNING: wire.JobStatus.JS_RUNNING,
    Outcome.SUCCESS: wire.JobStatus.JS_SUCCESS,
    Outcome.FAILED: wire.JobStatus.JS_FAILED,
}


class ConnectionLost(Exception):
    """The connection to LiveKit is lost, or could not be made."""


class WorkerConnection:
    """One registration with LiveKit. `run` it as a background task."""

    def __init__(self, url: str, api_key: str, api_secret: str, agent_name: str, handler: JobHandler) -> None:
        base = url.replace("http", "ws", 1) if url.startswith("http") else url
        self._url = f"{base.rstrip('/')}/agent"
        self._key, self._secret, self._name, self._handler = api_key, api_secret, agent_name, handler
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._load = WorkerLoad()
        self._load_changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.registration = Registration()

    async def run(self) -> None:
        """Stay registered until cancelled."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(ConnectionLost),
            wait=wait_random_exponential(multiplier=0.25, max=MAX_PAUSE_SECONDS),
            before_sleep=self._log_failed_attempt,
        )
        try:
            async with aiohttp.ClientSession() as http:
                while True:
                    async for attempt in retrying:
                        with attempt:
                            await self._serve(http)
        finally:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def report_load(self, load: WorkerLoad) -> None:
        """Set our load; a change is sent to LiveKit at once."""
        if load != self._load:
            self._load = load
            self._load_changed.set()

    async def report_job(self, job_id: str, outcome: Outcome, error: str = "") -> bool:
        """Report the state of a job to LiveKit; False when it cannot be sent now."""
        update = wire.UpdateJobStatus(job_id=job_id, status=_STATUS[outcome], error=error)
        try:
            await self._send(wire.WorkerMessage(update_job=update))
        except ConnectionLost:
            return False
        return True

    # The connection

    async def _serve(self, http: aiohttp.ClientSession) -> None:
        """Connect, register, and receive until the connection is lost. Raises `ConnectionLost` unless it was steady."""
        steady = False
        try:
            async with contextlib.AsyncExitStack() as stack:
                worker_id, socket = await self._connect(http, stack)
                registered = time.monotonic()
                self.registration = Registration(worker_id)
                log.info("registered with LiveKit", extra={"worker": worker_id, "agent_name": self._name})
                reporting = asyncio.create_task(self._report_load_repeatedly())
                try:
                    await self._receive_messages(socket)
                finally:
                    reporting.cancel()
                    steady = time.monotonic() - registered > STEADY_SECONDS
        except aiohttp.WSServerHandshakeError as failure:
            error = await self._refusal(http, failure)
        except (ConnectionLost, TimeoutError, OSError, DecodeError, aiohttp.ClientError) as failure:
            error = _describe(failure)
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
            raise ConnectionLost(error)

    async def _connect(
        self, http: aiohttp.ClientSession, stack: contextlib.AsyncExitStack
    ) -> tuple[str, aiohttp.ClientWebSocketResponse]:
        """Connect and register. Returns our worker id and the websocket, which `stack` closes."""
        async with asyncio.timeout(CONNECT_SECONDS):
            self._socket = await stack.enter_async_context(
                http.ws_connect(
                    self._url,
                    headers=self._headers(),
                    heartbeat=PING_SECONDS,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                )
            )
            return await self._register(self._socket), self._socket

    async def _refusal(self, http: aiohttp.ClientSession, failure: aiohttp.WSServerHandshakeError) -> str:
        """Return LiveKit's reason for refusing the websocket.

        The answer to the handshake contains none; the answer to a plain request does.
        """
        text, skew = "", 0.0
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with asyncio.timeout(SEND_SECONDS), http.get(_http_url(self._url), headers=self._headers()) as answer:
                if answer.status == failure.status:
                    text = (await answer.content.read(MAX_REFUSAL_BYTES)).decode(errors="replace")
                    skew = refusals.skew(answer.headers.get("Date"))
        if not text and failure.status in {401, 403}:
            text = "the key pair is refused"
        return ": ".join(filter(None, (f"LiveKit answered {failure.status} at /agent", refusals.explained(text, skew))))

    def _headers(self) -> dict[str, str]:
        token = api.AccessToken(self._key, self._secret).with_grants(api.VideoGrants(agent=True))
        return {"Authorization": f"Bearer {token.with_ttl(timedelta(minutes=10)).to_jwt()}"}

    async def _register(self, socket: aiohttp.ClientWebSocketResponse) -> str:
        # The permissions of LiveKit's own token for the agent, which we do not use: see `api/dispatch.py`.
        allowed = ParticipantPermission(
            can_publish=True, can_subscribe=True, can_publish_data=True, can_update_metadata=True, agent=True
        )
        register = wire.RegisterWorkerRequest(
            type=wire.JobType.JT_ROOM, agent_name=self._name, version=__version__, allowed_permissions=allowed
        )
        await self._send(wire.WorkerMessage(register=register))
        answer = await self._receive(socket)
        if not answer.HasField("register"):
            raise ConnectionLost(f"LiveKit answered {answer.WhichOneof('message')} to our registration")
        # LiveKit takes a worker for free until it reports its load: do so before the first offer.
        await self._send_load()
        if jobs := self._handler.running():
            await self._send(wire.WorkerMessage(migrate_job=wire.MigrateJobRequest(job_ids=jobs)))
        return answer.register.worker_id

    async def _report_load_repeatedly(self) -> None:
        with contextlib.suppress(ConnectionLost):
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REPORT_SECONDS):
                        await self._load_changed.wait()
                await self._send_load()

    async def _send_load(self) -> None:
        self._load_changed.clear()
        load = self._load
        update = wire.UpdateWorkerStatus(
            status=wire.WorkerStatus.WS_FULL if load.full else wire.WorkerStatus.WS_AVAILABLE,
            load=load.load * FULL_LOAD, job_count=load.jobs, draining=load.draining,
        )  # fmt: skip
        await self._send(wire.WorkerMessage(update_worker=update))

    async def _send(self, message: wire.WorkerMessage) -> None:
        if self._socket is None:
            raise ConnectionLost("not connected")
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._socket.send_bytes(message.SerializeToString())
        except (OSError, TimeoutError, aiohttp.ClientError) as failure:
            raise ConnectionLost(_describe(failure)) from failure

    # Messages from LiveKit

    async def _receive_messages(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            message = await self._receive(socket)
            match message.WhichOneof("message"):
                case "availability":
                    self._run_task(self._answer(_offer(message.availability.job)))
                case "assignment":
                    self._run_task(self._handler.on_assignment(_offer(message.assignment.job)))
                case "termination":
                    self._run_task(self._handler.on_termination(message.termination.job_id))

    @staticmethod
    async def _receive(socket: aiohttp.ClientWebSocketResponse) -> wire.ServerMessage:
        received = await socket.receive()
        if received.type is not aiohttp.WSMsgType.BINARY:
            why = socket.exception() or received.extra or f"code {socket.close_code}"
            raise ConnectionLost(f"LiveKit closed the connection ({why})")
        return wire.ServerMessage.FromString(received.data)

    async def _answer(self, offer: JobOffer) -> None:
        answer = Answer(available=False)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._handler.on_availability(offer)
        except TimeoutError:
            log.warning("refused a job: the decision took too long", extra={"job": offer.id, "room": offer.room})
        finally:
            response = wire.AvailabilityResponse(
                job_id=offer.id, available=answer.available, terminate=answer.terminate,
                participant_identity=answer.identity,
            )  # fmt: skip
            try:
                await self._send(wire.WorkerMessage(availability=response))
            except ConnectionLost as lost:
                log.warning("LiveKit disconnected before our answer", extra={"job": offer.id, "cause": str(lost)})

    def _run_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)

        def done(finished: asyncio.Task[None]) -> None:
            self._tasks.discard(finished)
            if not finished.cancelled() and (failure := finished.exception()):
                log.error("handling a message from LiveKit failed", exc_info=failure)

        task.add_done_callback(done)

    def _log_failed_attempt(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            log.warning("not registered with LiveKit, retrying", extra={"cause": self.registration.error})


def _offer(job: wire.Job) -> JobOffer:
    return JobOffer(job.id, job.dispatch_id, job.room.name, job.metadata, job.SerializeToString())


def _http_url(url: str) -> str:
    return url.replace("ws", "http", 1)


def _describe(failure: BaseException) -> str:
    if isinstance(failure, TimeoutError):
        return "LiveKit does not answer"
    return str(failure) or type(failure).__name__
