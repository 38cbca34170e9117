"""LiveKit's own job process, whose parent is this runtime instead of a worker, and whose job comes late.

`livekit.agents.ipc.job_proc_lazy_main._JobProc` makes the JobContext, runs the session function, and at the end closes
the AgentSession, awaits `on_session_end`, and runs the shutdown callbacks: all of that is LiveKit's code.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from livekit import api, rtc
from livekit.agents import AgentServer, JobContext, JobProcess, utils
from livekit.agents.inference_runner import _InferenceRunner
from livekit.agents.ipc import job_proc_lazy_main as native
from livekit.agents.ipc.proto import Exiting, InferenceRequest, InferenceResponse, InitializeRequest, StartJobRequest
from livekit.agents.job import JobExecutorType, RunningJobInfo

from agent_runtime.livekit import rights
from agent_runtime.watched_tasks import describe
from orchestrator.reasons import Reason, because

log = logging.getLogger("agent.livekit")


class Parent:
    """The other end of the job process's pipe, where a worker would be.

    `messages` is what the job process reads. Inference runs in a thread of this process, one request after the other.
    """

    def __init__(self, runners: Mapping[str, _InferenceRunner]) -> None:
        self._runners = runners
        self.messages: utils.aio.Chan[Any] = utils.aio.Chan()
        #: The job has ended but for its shutdown callbacks: why.
        self.exiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._one_at_a_time = asyncio.Lock()
        self._requests: set[asyncio.Task[None]] = set()

    async def send(self, message: Any) -> None:
        """Take a message of the job process."""
        if isinstance(message, Exiting) and not self.exiting.done():
            self.exiting.set_result(message.reason)
        elif isinstance(message, InferenceRequest):
            task = asyncio.create_task(self._infer(message))
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

    async def _infer(self, request: InferenceRequest) -> None:
        answer = InferenceResponse(request_id=request.request_id)
        try:
            async with self._one_at_a_time:
                answer.data = await asyncio.to_thread(self._runners[request.method].run, request.data)
        except Exception as failure:
            answer.error = repr(failure)
        self.messages.send_nowait(answer)


class LateJob(native._JobProc):
    """LiveKit's job process. The job's room is the runtime's, which watches it too."""

    def __init__(
        self, server: AgentServer, process: JobProcess, parent: Parent, failed: Callable[[Reason], None]
    ) -> None:
        self._user_entrypoint = server._entrypoint_fnc
        super().__init__(
            lambda _: None,  # it ran before the fork
            self._serve,
            server._session_end_fnc,
            session_end_timeout=server._session_end_timeout,
            executor_type=JobExecutorType.PROCESS,
            simulation_end_fnc=server._simulation_end_fnc,
        )
        self._failed, self._parent = failed, parent
        self.initialize(InitializeRequest(), parent)  # type: ignore[arg-type]
        self._job_proc = process
        self._given_room: rtc.Room
        self._delete_room: Callable[[], None]
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self, job: RunningJobInfo, room: rtc.Room, delete_room: Callable[[], None]) -> None:
        """Start the job in a room that is not connected yet. `delete_room`: what `ctx.delete_room()` does."""
        self._given_room, self._delete_room = room, delete_room
        request = StartJobRequest()
        request.running_job = job
        self._parent.messages.send_nowait(request)

    async def shutdown_requested(self) -> native._ShutdownInfo:
        """Return why the job shuts down, once it does."""
        return await asyncio.shield(self._shutdown_fut)

    def _start_job(self, msg: StartJobRequest) -> None:
        made = rtc.Room
        rtc.Room = lambda *_, **__: self._given_room  # type: ignore[misc,assignment]
        try:
            super()._start_job(msg)
        finally:
            rtc.Room = made  # type: ignore[misc]
        context = self._job_ctx
        connected = context._on_connect

        def on_connect() -> None:
            connected()
            if not self.connected.done():
                self.connected.set_result(None)

        context._on_connect = on_connect
        delete = context.delete_room

        # The session's end deletes its room. A room besides it needs another token, and LiveKit says so.
        def delete_room(room_name: str | None = None) -> "asyncio.Future[api.DeleteRoomResponse]":
            if room_name not in {None, self._given_room.name}:
                return delete(room_name)
            done: asyncio.Future[api.DeleteRoomResponse] = asyncio.get_running_loop().create_future()
            done.set_result(api.DeleteRoomResponse())
            self._delete_room()
            return done

        context.delete_room = delete_room  # type: ignore[method-assign]

    async def _serve(self, context: JobContext) -> None:
        assert self._user_entrypoint
        try:
            await self._user_entrypoint(context)
        except Exception as failure:
            if advice := rights.hint(failure):
                log.error("%s: %s", failure, advice)
            self._failed(because("agent_error", detail=describe(failure)))
            raise
