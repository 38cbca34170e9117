"""Runs one agent: says it is warm, waits for its session, joins the room, tells who is there, leaves.

States: starting → ready → (assigned) joining → in the room → leaving → exit 0. Messages in the inbox:
`assign {sessionId, room, token, userId, metadata, takeovers, conversation}` once, `goodbye {seconds}`, and
`stop {reason}` at any time; SIGTERM means stop.
Failure cases: Redis silent → goes on, tries again; its record is gone from Redis → registers again; room cannot be
joined → tries until it is told to stop; the room is lost or the entrypoint raises → another agent takes over; another
one has taken over already → leaves without a word. How long a user may stay away is not decided here.

`python -m agents.runtime` starts it by exec; the agent host forks into `main` instead. Your own program may call
`run(entrypoint)` for the same contract.
"""

import asyncio
import contextlib
import faulthandler
import importlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from types import ModuleType
from typing import Any

from livekit import rtc
from livekit.rtc._ffi_client import FfiClient
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from agents import incoming
from agents.context import AgentContext, Turn
from orchestrator import faults
from orchestrator.errors import IllegalMove, OrchestratorError, StoreUnavailable
from orchestrator.logs import lose_what_is_refused
from orchestrator.refusals import Refusal, WithoutTokens
from orchestrator.settings import NodeSettings, load
from orchestrator.store.agent_link import TURNS, AgentLink

log = logging.getLogger("agent.runtime")

Entrypoint = Callable[[AgentContext], Awaitable[None]]

#: Seconds that saying goodbye to LiveKit and Redis may take.
LEAVE_SECONDS = 1.0
#: Seconds for which an agent tries to say how its session ended: who does not know it would take the call over.
END_SECONDS = 20.0

_preloaded: ModuleType | None = None


def preload(module: str) -> None:
    """Import an agent module and run its `prewarm()`, before a fork. Raises whatever the module raises."""
    global _preloaded  # noqa: PLW0603 - the forked child finds here what its parent loaded
    _preloaded = importlib.import_module(module)
    if not callable(getattr(_preloaded, "entrypoint", None)):
        raise OrchestratorError(f"{module} has no entrypoint(ctx); see the README, Bring your own agent")
    if prewarm := getattr(_preloaded, "prewarm", None):
        prewarm()


def main(agent_id: str | None = None) -> None:
    """Run one agent of AGENT_MODULE. Exits with 0 after its session, with 1 when it failed."""
    settings = load(NodeSettings)
    if _preloaded is None:
        preload(settings.agent_module)
    assert _preloaded is not None
    run(_preloaded.entrypoint, agent_id)


def run(entrypoint: Entrypoint, agent_id: str | None = None) -> None:
    """Run one agent with the given entrypoint, to its end."""
    lose_what_is_refused()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr, force=True
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(WithoutTokens())
    # LiveKit's own chatter is about every connection; what goes wrong it says at WARNING.
    logging.getLogger("livekit").setLevel(logging.WARNING)
    faulthandler.enable()
    settings = load(NodeSettings)
    agent_id = agent_id or os.environ["AGENT_ID"]
    if not settings.redis_url or not settings.livekit_url:
        raise OrchestratorError("an agent needs REDIS_URL and LIVEKIT_URL")
    asyncio.run(Runtime(settings, settings.livekit_url, agent_id, entrypoint).run())


class Runtime:
    """One agent's life."""

    def __init__(self, settings: NodeSettings, livekit_url: str, agent_id: str, entrypoint: Entrypoint) -> None:
        self._settings = settings
        self._livekit_url = livekit_url
        self._entrypoint = entrypoint
        self._link = AgentLink(settings.redis, agent_id)
        self._stop: asyncio.Future[str]
        self._assigned: asyncio.Future[dict[str, Any]]
        self._goodbye: asyncio.Future[float]
        self._context: AgentContext | None = None
        self._active_at: int | None = None

    async def run(self) -> None:
        """Live. Returns after the session, or when told to stop."""
        loop = asyncio.get_running_loop()
        self._stop, self._assigned, self._goodbye = loop.create_future(), loop.create_future(), loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._request_stop, "the node is stopping")
        _ = FfiClient.instance  # LiveKit's native part starts its threads now, not in the call
        faults.hit("agent.before_ready")
        await self._say_ready()
        helpers = [asyncio.create_task(self._beat()), asyncio.create_task(self._read_inbox())]
        try:
            decided: list[asyncio.Future[Any]] = [self._stop, self._assigned]
            await asyncio.wait(decided, return_when=asyncio.FIRST_COMPLETED)
            if self._assigned.done():
                await self._serve(self._assigned.result())
            else:
                await self._retire(self._stop.result())
        finally:
            for helper in helpers:
                helper.cancel()
            with contextlib.suppress(OrchestratorError, TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._link.close()

    async def _say_ready(self) -> None:
        """Say that this agent is warm. Where Redis is away, that is no fault of the agent: it waits, until its boot has
        taken too long or it is told to stop."""
        unsaid = False
        while not self._stop.done():
            try:
                await self._link.ready(os.getpid())
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

    async def _beat(self) -> None:
        while True:
            try:
                state = await self._link.beat()
                if not state:
                    state = await self._register()
                if state in {"", "stopping", "exited"}:
                    self._disowned()
            except OrchestratorError as failure:
                log.warning("no heartbeat: %s", failure.detail)
            await asyncio.sleep(self._settings.heartbeat_seconds)

    async def _register(self) -> str:
        log.warning("Redis has no record of this agent or its session: registers again")
        told: dict[str, Any] = {}
        if self._assigned.done():
            message = self._assigned.result()
            payload = {name: message[name] for name in ("type", "room", "token", "userId", "metadata")}
            turns = self._context.conversation if self._context else []
            told = {
                "id": message["sessionId"], "userId": message["userId"], "roomName": message["room"],
                "createdAt": message["createdAt"], "activeAt": self._active_at, "payload": json.dumps(payload),
                "conversation": [json.dumps(asdict(turn)) for turn in turns[-TURNS:]],
            }  # fmt: skip
        return await self._link.register(os.getpid(), self._settings.node_id, told)

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
                await asyncio.sleep(self._settings.heartbeat_seconds / 5)
                continue
            if message is None:
                continue
            if message["type"] == "stop":
                self._request_stop(message["reason"])
            elif message["type"] == "goodbye":
                self._goodbye.set_result(float(message["seconds"]))
            elif message["type"] == "assign" and not self._assigned.done():
                self._assigned.set_result(message)

    # The session

    async def _serve(self, assignment: dict[str, Any]) -> None:
        session_id = assignment["sessionId"]
        room = rtc.Room()
        context = self._context = AgentContext(
            session_id=session_id,
            user_id=assignment["userId"],
            metadata=assignment["metadata"],
            room=room,
            url=self._livekit_url,
            token=assignment["token"],
            takeovers=assignment["takeovers"],
            conversation=[Turn(**turn) for turn in assignment["conversation"]],
        )
        self._stop.add_done_callback(lambda stop: context.stop(stop.result()))
        incoming.watch(context, self._settings.agent_data_mb)
        faults.hit("agent.before_join")
        connecting = asyncio.create_task(self._connect(context, assignment))
        decided: list[asyncio.Future[Any]] = [connecting, context.leaving]
        await asyncio.wait(decided, return_when=asyncio.FIRST_COMPLETED)
        watchers = [connecting]
        if connecting.done() and not connecting.exception():
            context.look()
            context.log.info("joined %s", assignment["room"])
            watchers = [
                asyncio.create_task(watcher)
                for watcher in (
                    self._report(context), self._report_audio(context), self._keep_turns(context),
                    self._say_goodbye(context), self._enter(context),
                )
            ]  # fmt: skip
        elif connecting.done():
            context.hand_over(f"join_failed: {connecting.exception()}")
        outcome, reason = await context.leaving
        context.log.info("leaves: %s", reason)
        for watcher in watchers:
            watcher.cancel()
        await self._end(session_id, outcome, reason)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LEAVE_SECONDS):
                await asyncio.gather(*watchers, return_exceptions=True)
                await room.disconnect()

    async def _connect(self, context: AgentContext, assignment: dict[str, Any]) -> None:
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
                    await self._refused(context, Refusal.read(failure))
                    raise

    async def _refused(self, context: AgentContext, refusal: Refusal | None) -> None:
        if refusal is None:
            return
        if refusal.no_room:
            await self._say(context, lambda: self._link.no_room(refusal.words))
        elif refusal.permanent:
            context.leave(f"join_refused: LiveKit refuses the agent: {refusal.words}", failed=True)

    async def _enter(self, context: AgentContext) -> None:
        try:
            await self._entrypoint(context)
        except Exception as failure:
            context.log.exception("the agent's entrypoint failed")
            context.hand_over(f"agent_error: {type(failure).__name__}: {failure}")

    async def _report(self, context: AgentContext) -> None:
        """Tell the store that the agent is in the room, and then who else is: every coming and going of the user."""
        await self._say(context, self._link.joined)
        faults.hit("agent.joined")
        while True:
            await context.presence_changed.wait()
            context.presence_changed.clear()
            await self._report_presence(context)

    async def _report_audio(self, context: AgentContext) -> None:
        await context.audible.wait()
        await self._say(context, lambda: self._link.first_audio(context.session_id))

    async def _report_presence(self, context: AgentContext) -> None:
        present = context.user_present.is_set()
        lost = not present and context.user_lost
        await self._say(context, lambda: self._link.presence(context.session_id, present=present, lost=lost))
        if present and self._active_at is None:
            self._active_at = int(time.time() * 1000)

    async def _keep_turns(self, context: AgentContext) -> None:
        while True:
            turn = await context.unkept.get()
            await self._say(context, lambda turn=turn: self._link.turn(context.session_id, asdict(turn)))  # type: ignore[misc]

    async def _say_goodbye(self, context: AgentContext) -> None:
        """Have the agent tell its user that the node must stop; then leave. Where it has nothing to say, go on."""
        seconds = await self._goodbye
        context.log.info("the node is stopping: %g s are left", seconds)
        if not context.goodbyes:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(say() for say in context.goodbyes), return_exceptions=True)
        context.leave("the node is stopping")

    async def _say(self, context: AgentContext, tell: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await tell()
            except IllegalMove as failure:
                # Not its session any more, or a record that is gone: the next heartbeat finds out which.
                context.log.warning("the store knows better: %s", failure.detail)
            except OrchestratorError as failure:
                context.log.warning("not reported yet: %s", failure.detail)
                await asyncio.sleep(self._settings.heartbeat_seconds / 5)
                continue
            return

    async def _end(self, session_id: str, outcome: str, reason: str) -> None:
        if outcome == "replaced":
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                while True:
                    try:
                        if outcome == "lost":
                            await self._link.failed(reason)
                        elif outcome == "stopped":
                            await self._link.stopped(reason)
                        else:
                            await self._link.ended(session_id, outcome, reason)
                    except OrchestratorError as failure:
                        log.warning("the end is not recorded yet: %r", failure)
                        await asyncio.sleep(self._settings.heartbeat_seconds / 5)
                    else:
                        return
        log.warning("the end is not recorded by the agent")


if __name__ == "__main__":
    code = 1
    try:
        # The module as others import it: this one is called __main__, and would be a second copy.
        importlib.import_module("agents.runtime").main()
        code = 0
    except Exception:
        log.exception("agent crashed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # native libraries may hang in their exit handlers
