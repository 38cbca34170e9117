"""Runs one agent: reports that it is warm, waits for its session, joins the room, reports who is there, leaves.

States: starting → ready → (assigned) joining → in the room → leaving → exit 0. Messages in the inbox:
`assign {sessionId, room, token, userId, metadata, takeovers, conversation}` once, `goodbye {seconds}`, and
`stop {reason}` at any time; SIGTERM means stop.
Failure cases: Redis does not answer → continues and tries again; its record is gone from Redis → registers again; the
room cannot be joined → tries until a stop request; the room is lost, the entrypoint raises, or a task beside the
call (heartbeat, inbox, …) ends → another agent takes over; the event loop is blocked → there is no heartbeat, and Redis
notices; another agent has taken over already → leaves without a report. This module does not decide how long a user may
stay away.

`python -m agent_runtime.runtime` starts an agent by exec; the agent host forks into `main` instead. An agent's process
ends without the interpreter's exit handlers, in which native libraries abort or hang.
"""

import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import time
from dataclasses import asdict
from typing import Any

from agent_runtime import node_shutdown
from agent_runtime.call import Call
from agent_runtime.kind import Kind, NotWarm
from agent_runtime.process import end_after, lineage, log_to_stderr
from agent_runtime.relay_link import RelayLink
from agent_runtime.served_session import LEAVE_SECONDS, ServedSession
from agent_runtime.watched_tasks import WatchedTasks
from orchestrator import faults, reasons
from orchestrator.config.agent import AgentSettings
from orchestrator.config.load import load
from orchestrator.errors import IllegalMove, OrchestratorError, StoreUnavailable
from orchestrator.models import TURNS
from orchestrator.reasons import Reason, because

log = logging.getLogger("agent.runtime")

#: A warm agent leaves if it cannot read its inbox for this long while its heartbeats arrive: it would miss its
#: assignment.
INBOX_SECONDS = 8.0

#: What the api has put into an assignment; Redis adds the rest.
_PAYLOAD = ("type", "room", "token", "apiToken", "userId", "metadata", "job")

_preloaded: Kind[Any] | None = None
#: The node's settings, read before the module is imported: a module may set RUN_DIR or read a .env of its own.
_settings: AgentSettings | None = None


def preload(module: str) -> None:
    """Import an agent module and run its `prewarm()`, before a fork. Raises whatever the module raises."""
    global _preloaded, _settings  # noqa: PLW0603 - the forked child finds here what its parent loaded
    _settings = load(AgentSettings)
    # Read here, it is shared by all agents.
    # guard: read-before-fork
    reasons.table()
    _preloaded = _kind(_settings, module)


def _kind(settings: AgentSettings, module: str) -> Kind[Any]:
    # By need: the process beside a program does not import LiveKit.
    if settings.agent_command:
        return importlib.import_module("agent_runtime.program.kind").ProgramKind(settings)  # type: ignore[no-any-return]
    return importlib.import_module("agent_runtime.contract").load(module)  # type: ignore[no-any-return]


def main(agent_id: str | None = None) -> None:
    """Run one agent of AGENT_MODULE or AGENT_COMMAND, to its end."""
    agent_id = agent_id or os.environ["AGENT_ID"]
    if _preloaded is None:
        preload(load(AgentSettings).agent_module)
    assert _preloaded is not None
    _live(_preloaded, agent_id, _settings)


def _live(kind: Kind[Any], agent_id: str, settings: AgentSettings | None) -> None:
    log_to_stderr()
    settings = settings or load(AgentSettings)
    if not settings.livekit_url:
        raise OrchestratorError("an agent needs LIVEKIT_URL")
    try:
        asyncio.run(Runtime(settings, settings.livekit_url, agent_id, kind).run())
    except NotWarm as failure:
        raise SystemExit(failure.code) from None


class Runtime:
    """One agent, from its start to its exit."""

    def __init__(self, settings: AgentSettings, livekit_url: str, agent_id: str, kind: Kind[Any]) -> None:
        self._settings = settings
        self._run_dir = settings.run_dir.absolute()  # an entrypoint may change the working directory
        self._livekit_url = livekit_url
        self._kind = kind
        self._link = RelayLink(settings.relay_socket.absolute(), agent_id)
        self._stop: asyncio.Future[Reason]
        self._assigned: asyncio.Future[dict[str, Any]]
        self._goodbyes: asyncio.Queue[float] = asyncio.Queue()
        self._tasks = WatchedTasks(self._fail)
        self._failure: Reason | None = None
        self._inbox_failed_at: float | None = None
        self._served: ServedSession | None = None

    async def run(self) -> None:
        """Run until the session is over, or until a stop request."""
        loop = asyncio.get_running_loop()
        self._stop, self._assigned = loop.create_future(), loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._request_stop, because("node_stopping"))
        self._kind.prepare()
        try:
            await self._warm_up()
            faults.hit("agent.before_ready")
            self._tasks.start(_task_ended("following the node's shutdown notice"), self._follow_node())
            await self._report_ready()
            # Runs in the event loop: while that is blocked there is no heartbeat.
            self._tasks.start(_task_ended("the heartbeat"), self._beat())
            self._tasks.start(_task_ended("reading the inbox"), self._read_inbox())
            self._tasks.start(_task_ended("watching the agent's code"), self._watch_kind(), ends=True)
            decided: list[asyncio.Future[Any]] = [self._stop, self._assigned]
            await asyncio.wait(decided, return_when=asyncio.FIRST_COMPLETED)
            if self._assigned.done():
                await self._serve(self._assigned.result())
            else:
                await self._retire(self._stop.result())
        finally:
            await self._kind.close(self._stop.result() if self._stop.done() else None)
            self._tasks.cancel()
            with contextlib.suppress(OrchestratorError, TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._link.close()

    async def _warm_up(self) -> None:
        """Let the agent's code become warm, or give that up after a stop request."""
        warming = asyncio.ensure_future(self._kind.warm_up())
        either: list[asyncio.Future[Any]] = [warming, self._stop]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if warming.done():
            await warming
        else:
            warming.cancel()

    async def _watch_kind(self) -> None:
        if cause := await self._kind.failure():
            self._fail(cause)

    async def _report_ready(self) -> None:
        """Report that this agent is warm.

        If Redis does not answer, the agent waits, until its boot has taken too long or until a stop request.
        """
        unanswered = False
        while not self._stop.done():
            try:
                await self._link.ready(*lineage())
            except IllegalMove:
                if not unanswered:
                    raise
                return  # the first report arrived without an answer; or the agent was given up: see the heartbeat
            except StoreUnavailable as failure:
                unanswered = True
                log.warning("warm, but not reported yet: %s", failure.detail)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.heartbeat_seconds / 5):
                        await asyncio.shield(self._stop)
            else:
                return

    async def _retire(self, reason: Reason) -> None:
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._link.leave(reason)
        except (OrchestratorError, TimeoutError) as failure:
            log.warning("could not report that it leaves: %r", failure)

    def _request_stop(self, reason: Reason) -> None:
        if not self._stop.done():
            self._stop.set_result(reason)

    async def _follow_node(self) -> None:
        def leave_warm(reason: Reason) -> None:
            if not self._assigned.done():
                self._request_stop(reason)

        def context() -> Call | None:
            return self._served.context if self._served else None

        await node_shutdown.follow(self._run_dir, context, leave_warm, self._goodbyes.put_nowait)

    def _fail(self, cause: Reason) -> None:
        """Leave: this process runs but can serve no session."""
        self._failure = self._failure or cause
        if self._served:
            self._served.context.hand_over(cause)
        else:
            self._request_stop(cause)

    async def _beat(self) -> None:
        while True:
            try:
                state = await self._link.beat()
                if not state:
                    # guard: register-again
                    state = await self._register()
                if state in {"", "stopping", "exited"}:
                    self._leave()
                failed_at = self._inbox_failed_at
                no_inbox = failed_at is not None and time.monotonic() - failed_at > INBOX_SECONDS
                # guard: deaf-agent
                if no_inbox and not self._assigned.done():
                    self._fail(because("agent_error", detail="the inbox cannot be read, though Redis answers"))
            except OrchestratorError as failure:
                self._inbox_failed_at = None  # Redis itself does not answer
                log.warning("no heartbeat: %s", failure.detail)
            await asyncio.sleep(self._settings.heartbeat_seconds)

    async def _register(self) -> str:
        pid, *ancestors = lineage()
        log.warning("Redis has no record of this agent or its session: registers again")
        session: dict[str, Any] = {}
        if self._assigned.done():
            message = self._assigned.result()
            payload = {name: message[name] for name in _PAYLOAD if name in message}
            turns = self._served.context.conversation if self._served else []
            active_at = self._served.reports.active_at if self._served else None
            session = {
                "id": message["sessionId"], "userId": message["userId"], "roomName": message["room"],
                "createdAt": message["createdAt"], "activeAt": active_at, "payload": json.dumps(payload),
                "conversation": [json.dumps(asdict(turn)) for turn in turns[-TURNS:]],
            }  # fmt: skip
        return await self._link.register(pid, self._settings.node_id, session, *ancestors)

    def _leave(self) -> None:
        """Stop: the store no longer counts on this agent. Its session, if any, is over or belongs to another agent."""
        if self._served:
            self._served.context.give_up(because("given_up"))
        else:
            self._request_stop(because("given_up"))

    async def _read_inbox(self) -> None:
        while True:
            try:
                message = await self._link.next_message()
            except OrchestratorError as failure:
                log.warning("the inbox cannot be read: %s", failure.detail)
                self._inbox_failed_at = self._inbox_failed_at or time.monotonic()
                await asyncio.sleep(self._settings.heartbeat_seconds / 5)
                continue
            self._inbox_failed_at = None
            if message is not None:
                self._handle(message)

    def _handle(self, message: dict[str, Any]) -> None:
        match message:
            case {"type": "stop", "reason": str() as text}:
                self._request_stop(Reason(message.get("code") or "", message.get("params") or {}, text))
            case {"type": "goodbye", "seconds": int() | float() as seconds}:
                self._goodbyes.put_nowait(seconds)  # one for each drain: the node may be undrained in between
            case {"type": "assign"} if not self._assigned.done():
                self._assigned.set_result(message)
            case _:
                log.warning("ignored a message in the inbox: it is unknown, or a second assignment")

    async def _serve(self, assignment: dict[str, Any]) -> None:
        served = self._served = ServedSession(
            self._settings, self._livekit_url, self._link, self._kind,
            assignment=assignment, goodbyes=self._goodbyes,
        )  # fmt: skip
        if self._failure:
            served.context.hand_over(self._failure)
        # guard: stop-hands-over
        self._stop.add_done_callback(lambda stop: served.context.stop(stop.result()))
        await served.run()


def _task_ended(task: str) -> Reason:
    """Return the reason for a task that ended; WatchedTasks adds how."""
    return because("agent_error", detail=f"{task} ended")


if __name__ == "__main__":
    # Not this module's own `main`: as __main__ it is a second copy of what others import.
    end_after(lambda: importlib.import_module("agent_runtime.runtime").main())
