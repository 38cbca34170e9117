"""Runs one agent: says it is warm, waits for its session, joins the room, tells who is there, leaves.

States: starting → ready → (assigned) joining → in the room → leaving → exit 0. Messages in the inbox:
`assign {sessionId, room, token, userId, metadata, takeovers, conversation}` once, `goodbye {seconds}`, and
`stop {reason}` at any time; SIGTERM means stop.
Failure cases: Redis silent → goes on, tries again; its record is gone from Redis → registers again; room cannot be
joined → tries until it is told to stop; the room is lost or the entrypoint raises → another agent takes over, and so
when the heartbeat, the inbox or anything else that runs beside the call has ended; the event loop is blocked → it does
not beat, and its silence is noticed in Redis; another one has taken over already → leaves without a word. How long a
user may stay away is not decided here.

`python -m agents.runtime` starts it by exec; the agent host forks into `main` instead. Your own program may call
`run(entrypoint)` for the same contract. A process that was an agent ends without the interpreter's exit: native
libraries abort or hang in theirs.
"""

import asyncio
import contextlib
import importlib
import inspect
import json
import logging
import os
import signal
import time
from dataclasses import asdict
from types import ModuleType
from typing import Any, NoReturn

from livekit import rtc
from livekit.rtc._ffi_client import FfiClient
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from agents import contract, incoming, node_shutdown
from agents.context import AgentContext, Goodbye, Turn
from agents.contract import Entrypoint
from agents.process import end_after, lineage, log_to_stderr
from agents.reports import Reports
from agents.watched import Watched
from orchestrator import faults
from orchestrator.config.load import load
from orchestrator.config.node import NodeSettings
from orchestrator.errors import IllegalMove, OrchestratorError, StoreUnavailable
from orchestrator.livekit.refusals import Refusal
from orchestrator.store.agent_link import TURNS, AgentLink
from orchestrator.store.loader import sources

log = logging.getLogger("agent.runtime")

#: Seconds that saying goodbye to LiveKit and Redis may take.
LEAVE_SECONDS = 1.0
#: Seconds after which a warm agent that beats and cannot read its inbox goes: it would not hear its assignment.
DEAF_SECONDS = 8.0

_preloaded: ModuleType | None = None
#: As the node has set them: a module may set REDIS_URL, or read a .env of its own, for itself.
_settings: NodeSettings | None = None


def preload(module: str) -> None:
    """Import an agent module and run its `prewarm()`, before a fork. Raises whatever the module raises."""
    global _preloaded, _settings  # noqa: PLW0603 - the forked child finds here what its parent loaded
    _settings = load(NodeSettings)
    sources(_settings.redis_prefix)  # assembled once, for all agents that are forked
    _preloaded = contract.load(module)


def main(agent_id: str | None = None) -> None:
    """Run one agent of AGENT_MODULE, to its end."""
    agent_id = agent_id or os.environ["AGENT_ID"]
    if _preloaded is None:
        preload(load(NodeSettings).agent_module)
    assert _preloaded is not None
    _live(_preloaded.entrypoint, agent_id, _settings)


def run(entrypoint: Entrypoint, agent_id: str | None = None) -> NoReturn:
    """Run one agent with the given entrypoint, and end the process: with 0 after its session, with 1 when it failed."""
    end_after(lambda: _live(entrypoint, agent_id or os.environ["AGENT_ID"], None))


def _live(entrypoint: Entrypoint, agent_id: str, settings: NodeSettings | None) -> None:
    log_to_stderr()
    contract.check(entrypoint, "the entrypoint")
    settings = settings or load(NodeSettings)
    if not settings.redis_url or not settings.livekit_url:
        raise OrchestratorError("an agent needs REDIS_URL and LIVEKIT_URL")
    asyncio.run(Runtime(settings, settings.livekit_url, agent_id, entrypoint).run())


class Runtime:
    """One agent's life."""

    def __init__(self, settings: NodeSettings, livekit_url: str, agent_id: str, entrypoint: Entrypoint) -> None:
        self._settings = settings
        self._run_dir = settings.run_dir.absolute()  # an entrypoint may change its folder
        self._livekit_url = livekit_url
        self._entrypoint = entrypoint
        self._link = AgentLink(settings.redis, agent_id)
        self._stop: asyncio.Future[str]
        self._assigned: asyncio.Future[dict[str, Any]]
        self._goodbyes: asyncio.Queue[float] = asyncio.Queue()
        self._tasks = Watched(self._broken)
        self._fault = ""
        self._deaf_since: float | None = None
        self._context: AgentContext | None = None
        self._reports: Reports | None = None

    async def run(self) -> None:
        """Live. Returns after the session, or when told to stop."""
        loop = asyncio.get_running_loop()
        self._stop, self._assigned = loop.create_future(), loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._request_stop, "the node is stopping")
        _ = FfiClient.instance  # LiveKit's native part starts its threads now, not in the call
        faults.hit("agent.before_ready")
        self._tasks.start("agent_error: the node's word is not heard any more", self._hear_the_node())
        await self._say_ready()
        # From the event loop: while it is blocked the agent is silent.
        self._tasks.start("agent_error: the heartbeat has ended", self._beat())
        self._tasks.start("agent_error: the inbox is not read any more", self._read_inbox())
        try:
            decided: list[asyncio.Future[Any]] = [self._stop, self._assigned]
            await asyncio.wait(decided, return_when=asyncio.FIRST_COMPLETED)
            if self._assigned.done():
                await self._serve(self._assigned.result())
            else:
                await self._retire(self._stop.result())
        finally:
            self._tasks.cancel()
            with contextlib.suppress(OrchestratorError, TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._link.close()

    async def _say_ready(self) -> None:
        """Say that this agent is warm. Where Redis is away, that is no fault of the agent: it waits, until its boot has
        taken too long or it is told to stop."""
        unsaid = False
        while not self._stop.done():
            try:
                await self._link.ready(*lineage())
            except IllegalMove:
                if not unsaid:
                    raise
                return  # said already, though no answer came; or given up, which the heartbeat finds out
            except StoreUnavailable as failure:
                unsaid = True
                log.warning("warm, and not said so yet: %s", failure.detail)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.heartbeat_seconds / 5):
                        await asyncio.shield(self._stop)
            else:
                return

    async def _retire(self, reason: str) -> None:
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._link.leave(reason)
        except (OrchestratorError, TimeoutError) as failure:
            log.warning("not said that it goes: %r", failure)

    def _request_stop(self, reason: str) -> None:
        if not self._stop.done():
            self._stop.set_result(reason)

    async def _hear_the_node(self) -> None:
        def leave_warm(reason: str) -> None:
            if not self._assigned.done():
                self._request_stop(reason)

        await node_shutdown.follow(self._run_dir, lambda: self._context, leave_warm, self._goodbyes.put_nowait)

    def _broken(self, cause: str) -> None:
        """Go: this process lives, and serves no more."""
        self._fault = self._fault or cause
        if self._context:
            self._context.hand_over(cause)
        else:
            self._request_stop(cause)

    async def _beat(self) -> None:
        while True:
            try:
                state = await self._link.beat()
                if not state:
                    state = await self._register()
                if state in {"", "stopping", "exited"}:
                    self._disowned()
                deaf = self._deaf_since is not None and time.monotonic() - self._deaf_since > DEAF_SECONDS
                if deaf and not self._assigned.done():
                    self._broken("agent_error: the inbox cannot be read, though Redis answers")
            except OrchestratorError as failure:
                self._deaf_since = None  # it is Redis that is away
                log.warning("no heartbeat: %s", failure.detail)
            await asyncio.sleep(self._settings.heartbeat_seconds)

    async def _register(self) -> str:
        pid, *ancestors = lineage()
        log.warning("Redis has no record of this agent or its session: registers again")
        told: dict[str, Any] = {}
        if self._assigned.done():
            message = self._assigned.result()
            payload = {name: message[name] for name in ("type", "room", "token", "userId", "metadata")}
            turns = self._context.conversation if self._context else []
            active_at = self._reports.active_at if self._reports else None
            told = {
                "id": message["sessionId"], "userId": message["userId"], "roomName": message["room"],
                "createdAt": message["createdAt"], "activeAt": active_at, "payload": json.dumps(payload),
                "conversation": [json.dumps(asdict(turn)) for turn in turns[-TURNS:]],
            }  # fmt: skip
        return await self._link.register(pid, self._settings.node_id, told, *ancestors)

    def _disowned(self) -> None:
        """Go: the store has given up this agent, and its session, if any, is over or another agent's."""
        if self._context:
            self._context.give_up("the store has given this agent up")
        else:
            self._request_stop("the store has given this agent up")

    async def _read_inbox(self) -> None:
        while True:
            try:
                message = await self._link.next_message()
            except OrchestratorError as failure:
                log.warning("inbox not readable: %s", failure.detail)
                self._deaf_since = self._deaf_since or time.monotonic()
                await asyncio.sleep(self._settings.heartbeat_seconds / 5)
                continue
            self._deaf_since = None
            if message is not None:
                self._obey(message)

    def _obey(self, message: dict[str, Any]) -> None:
        match message:
            case {"type": "stop", "reason": str() as reason}:
                self._request_stop(reason)
            case {"type": "goodbye", "seconds": int() | float() as seconds}:
                self._goodbyes.put_nowait(seconds)  # one for each drain: the node may be undrained in between
            case {"type": "assign"} if not self._assigned.done():
                self._assigned.set_result(message)
            case _:
                log.warning("a message in the inbox is left aside: nobody knows it, or an assignment has come before")

    # The session

    async def _serve(self, assignment: dict[str, Any]) -> None:
        room = rtc.Room()
        context = self._context = AgentContext(
            session_id=assignment["sessionId"],
            user_id=assignment["userId"],
            metadata=assignment["metadata"],
            room=room,
            url=self._livekit_url,
            token=assignment["token"],
            takeovers=assignment["takeovers"],
            conversation=[Turn(**turn) for turn in assignment["conversation"]],
        )
        reports = self._reports = Reports(self._link, context, self._settings.heartbeat_seconds / 5)
        if self._fault:
            context.hand_over(self._fault)
        self._stop.add_done_callback(lambda stop: context.stop(stop.result()))
        incoming.watch(context, self._settings.agent_data_mb)
        faults.hit("agent.before_join")
        tasks = Watched(context.hand_over)
        tasks.start("join_failed", self._join(context, assignment, reports, tasks), ends=True)
        outcome, reason = await context.leaving
        context.log.info("leaves: %s", reason)
        tasks.cancel()
        # Recorded first, or another agent would take the call over. Where Redis is away nobody does, and the user is
        # let go all the same.
        ending = asyncio.create_task(reports.end(outcome, reason))
        await asyncio.wait([ending], timeout=LEAVE_SECONDS)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LEAVE_SECONDS):
                await tasks.ended()
                await room.disconnect()
        await ending

    async def _join(self, context: AgentContext, assignment: dict[str, Any], reports: Reports, tasks: Watched) -> None:
        await self._connect(context, assignment, reports)
        context.look()
        context.log.info("joined %s", assignment["room"])
        tasks.start("agent_error: the user's presence is not told any more", reports.presence())
        tasks.start("agent_error: the first sound is not told", reports.audio(), ends=True)
        tasks.start("agent_error: turns are not kept any more", reports.turns())
        tasks.start("agent_error: goodbye cannot be said", self._say_goodbye(context), ends=True)
        # It may end: the session goes on until somebody leaves it.
        tasks.start("agent_error", self._enter(context), ends=True)

    async def _connect(self, context: AgentContext, assignment: dict[str, Any], reports: Reports) -> None:
        """Join the room. LiveKit may be away for a while: tries until the store gives this agent up. What LiveKit would
        refuse any agent ends the session."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(rtc.ConnectError),
            wait=wait_exponential_jitter(initial=0.2, max=3),
            before_sleep=lambda state: context.log.warning(
                "not in the room yet (attempt %d): %s",
                state.attempt_number,
                state.outcome and state.outcome.exception(),
            ),
        ):
            with attempt:
                try:
                    await context.room.connect(self._livekit_url, assignment["token"], incoming.OPTIONS)
                except rtc.ConnectError as failure:
                    await self._refused(context, reports, Refusal.read(failure))
                    raise

    async def _refused(self, context: AgentContext, reports: Reports, refusal: Refusal | None) -> None:
        if refusal is None:
            return
        if refusal.no_room:
            await reports.say(lambda: self._link.no_room(refusal.words))
        elif refusal.permanent:
            context.leave(f"join_refused: LiveKit refuses the agent: {refusal.words}", failed=True)

    async def _enter(self, context: AgentContext) -> None:
        await self._entrypoint(context)

    async def _say_goodbye(self, context: AgentContext) -> None:
        """Have the agent tell its user that the node must stop; then leave. Where it has nothing to say, go on."""
        seconds = await self._goodbyes.get()
        context.log.info("the node is stopping: %g s are left", seconds)
        while not context.goodbyes:
            seconds = await self._goodbyes.get()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*map(_say_one, context.goodbyes), return_exceptions=True)
        context.leave("the node is stopping")


async def _say_one(say: Goodbye) -> None:
    said = say()
    if inspect.isawaitable(said):
        await said


if __name__ == "__main__":
    # The module as others import it: this one is called __main__, and would be a second copy.
    end_after(lambda: importlib.import_module("agents.runtime").main())
