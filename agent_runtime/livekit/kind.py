"""Agents that were written for LiveKit's own worker, unchanged: an AgentServer with its session function.

States: loaded → warm → (assigned) the job runs, its room not connected → connected → over → its callbacks run → exit.
Failure cases: the session function raises → another agent takes over; the job ends before it has connected, or by
`ctx.shutdown()` → the session ends; the callbacks take longer than SHUTDOWN_SECONDS → they are cut off.
"""

import asyncio
import logging
import os
from typing import Any

from livekit import rtc
from livekit.agents import AgentServer, JobProcess
from livekit.agents.inference_runner import _InferenceRunner
from livekit.agents.ipc.proto import ShutdownRequest
from livekit.agents.job import JobAcceptArguments, JobExecutorType

from agent_runtime import incoming
from agent_runtime.context import AgentContext
from agent_runtime.livekit import job, log_fields, rights, sessions
from agent_runtime.livekit.job_process import LateJob, Parent
from agent_runtime.room_kind import Connect, RoomKind
from orchestrator.reasons import Reason, because

log = logging.getLogger("agent.livekit")


class LiveKitKind(RoomKind):
    """One AgentServer. It is made before agents are forked: its `setup_fnc` and its inference runners run once."""

    def __init__(self, server: AgentServer) -> None:
        self._server = server
        self._process = JobProcess(executor_type=JobExecutorType.PROCESS, user_arguments=None, http_proxy=None)
        self._runners: dict[str, _InferenceRunner] = {}
        self._parent: Parent
        self._job: LateJob
        self._life: asyncio.Task[None]
        self._context: AgentContext | None = None

    def prewarm(self) -> None:
        """Do what LiveKit's worker does before a process takes a job. Raises whatever `setup_fnc` raises."""
        from livekit.agents.ipc import _preload  # noqa: F401, PLC0415 - LiveKit's own list of what to load before a fork

        if self._server.setup_fnc:
            self._server.setup_fnc(self._process)
        for method, runner in _InferenceRunner.registered_runners.items():
            try:
                made = runner()
                made.initialize()
            except Exception as failure:  # such as missing model files: who uses it is told, as by LiveKit's worker
                log.warning("the inference runner %s cannot be used: %r", method, failure)
            else:
                self._runners[method] = made

    async def warm_up(self) -> None:
        """Start LiveKit's job process inside this one."""
        log_fields.show()
        rights.explain()
        self._parent = Parent(self._runners)
        self._job = LateJob(self._server, self._process, self._parent, self._failed)
        self._life = asyncio.create_task(self._job.entrypoint(self._parent.messages))

    async def join(self, context: AgentContext, connect: Connect) -> None:
        """Start the job, and return when it has connected the session's room."""
        self._context = context
        rights.grant(context)
        sessions.follow(context)
        room = context.room
        claimed = job.of_session(context, self._server._agent_name)
        accepted = await job.accept(self._server, context, claimed)
        if accepted is None:
            await asyncio.Event().wait()  # the session ends
            return

        async def connect_patiently(url: str, token: str, options: rtc.RoomOptions | None = None) -> None:
            vars(room).pop("connect", None)  # it is the room's own method again, which `connect` calls
            await connect(_bounded(options or rtc.RoomOptions()))

        _disconnect_once(room)
        room.connect = connect_patiently  # type: ignore[method-assign]
        accepted.identity = rights.identity(context)
        running = job.running(context, claimed, accepted, os.environ.get("AGENT_ID", ""))
        self._job.begin(running, room, self._delete_room)
        decided: list[asyncio.Future[Any]] = [self._job.connected, self._parent.exiting]
        await asyncio.wait(decided, return_when=asyncio.FIRST_COMPLETED)
        if not self._job.connected.done():
            # guard: livekit-not-connected
            self._end("the job ended before it connected")
            await asyncio.Event().wait()
        await _introduce(room, accepted)
        claimed.room.sid = await room.sid

    async def serve(self, call: AgentContext) -> None:
        """Wait for the job's end. A session function that returns leaves the call to its AgentSession."""
        shutdown = await self._job.shutdown_requested()
        if shutdown.user_initiated:
            self._end(shutdown.reason)

    async def leave(self, call: AgentContext) -> None:
        """Let LiveKit shut the job down. The AgentSession closes and `on_session_end` runs before the room is left."""
        _, reason = call.leaving.result()
        self._parent.messages.send_nowait(ShutdownRequest(reason=reason.text))
        over: list[asyncio.Future[Any]] = [self._parent.exiting, self._life]
        await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)

    async def wind_down(self, call: AgentContext) -> None:
        """Wait for what is left of the shutdown: `on_session_end` and the shutdown callbacks."""
        await asyncio.shield(self._life)

    def _end(self, reason: str) -> None:
        if self._context:
            self._context.leave(because("agent_ended_call", detail=reason))

    def _delete_room(self) -> None:
        self._end("it deleted the room")

    def _failed(self, cause: Reason) -> None:
        if self._context:
            self._context.hand_over(cause)


def _bounded(options: rtc.RoomOptions) -> rtc.RoomOptions:
    """Return the agent's options with the limit of what a caller may send in one stream."""
    # guard: stream-bytes-livekit
    options.data_stream = incoming.OPTIONS.data_stream
    return options


def _disconnect_once(room: rtc.Room) -> None:
    """Let the job and the runtime both disconnect a room: a second one would release its native handle twice."""
    disconnect = room.disconnect
    under_way: list[asyncio.Task[None]] = []

    async def disconnect_once(*arguments: Any, **options: Any) -> None:
        if not under_way:
            under_way.append(asyncio.create_task(disconnect(*arguments, **options)))
        await asyncio.shield(under_way[0])

    room.disconnect = disconnect_once  # type: ignore[method-assign]


async def _introduce(room: rtc.Room, accepted: JobAcceptArguments) -> None:
    """Publish what `on_request` has accepted the job with."""
    participant = room.local_participant
    if accepted.name:
        await participant.set_name(accepted.name)
    if accepted.metadata:
        await participant.set_metadata(accepted.metadata)
    if accepted.attributes:
        await participant.set_attributes(accepted.attributes)
