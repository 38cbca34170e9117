"""Runs one agent: says it is warm, waits for its session, joins the room, watches the user, leaves.

States: starting → ready → (assigned) joining → in the room → leaving → exit 0. Messages in the inbox:
`assign {room, token, userId, metadata}` once, `stop {reason}` at any time; SIGTERM means stop.
Failure cases: Redis silent → goes on, tries again; room cannot be joined → the session is an error with that
reason; entrypoint raises → the same; the record is gone from Redis while warm → exits, it could never be found.

`python -m agents.runtime` starts it by exec; the agent host forks into `main` instead. Your own program may call
`run(entrypoint)` for the same contract.
"""

import asyncio
import contextlib
import faulthandler
import importlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

from livekit import rtc
from livekit.rtc._ffi_client import FfiClient
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from agents.context import AgentContext
from orchestrator.errors import IllegalMove, OrchestratorError
from orchestrator.settings import NodeSettings, load
from orchestrator.store.agent_link import AgentLink

log = logging.getLogger("agent.runtime")

Entrypoint = Callable[[AgentContext], Awaitable[None]]

#: Seconds that saying goodbye to LiveKit and Redis may take.
LEAVE_SECONDS = 1.0

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
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr, force=True
    )
    # LiveKit's own chatter is about every connection; what goes wrong it says at WARNING.
    logging.getLogger("livekit").setLevel(logging.WARNING)
    faulthandler.enable()
    settings = load(NodeSettings)
    agent_id = agent_id or os.environ["AGENT_ID"]
    if not settings.redis_url or not settings.livekit_url:
        raise OrchestratorError("an agent needs REDIS_URL and LIVEKIT_URL")
    asyncio.run(Runtime(settings, settings.redis_url, settings.livekit_url, agent_id, entrypoint).run())


class Runtime:
    """One agent's life."""

    def __init__(
        self, settings: NodeSettings, redis_url: str, livekit_url: str, agent_id: str, entrypoint: Entrypoint
    ) -> None:
        self._settings = settings
        self._livekit_url = livekit_url
        self._entrypoint = entrypoint
        self._link = AgentLink(redis_url, agent_id)
        self._stop: asyncio.Future[str]
        self._assigned: asyncio.Future[dict[str, Any]]

    async def run(self) -> None:
        """Live. Returns after the session, or when told to stop."""
        loop = asyncio.get_running_loop()
        self._stop, self._assigned = loop.create_future(), loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._request_stop, "stopped by its node")
        _ = FfiClient.instance  # LiveKit's native part starts its threads now, not in the call
        await self._link.ready(os.getpid())
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
                if not self._assigned.done() and state in {"", "exited"}:
                    self._request_stop("its record is gone")
            except OrchestratorError as failure:
                log.warning("no heartbeat: %s", failure.detail)
            await asyncio.sleep(self._settings.heartbeat_seconds)

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
            elif message["type"] == "assign" and not self._assigned.done():
                self._assigned.set_result(message)

    # The session

    async def _serve(self, assignment: dict[str, Any]) -> None:
        session_id = assignment["sessionId"]
        room = rtc.Room()
        context = AgentContext(
            session_id=session_id,
            user_id=assignment["userId"],
            metadata=assignment["metadata"],
            room=room,
            url=self._livekit_url,
            token=assignment["token"],
        )
        try:
            await self._connect(room, assignment["token"])
        except rtc.ConnectError as failure:
            await self._end(session_id, "error", f"join_failed: {failure}")
            return
        context.look()
        context.log.info("joined %s", assignment["room"])
        watchers = [
            asyncio.create_task(watcher)
            for watcher in (self._report(context), self._watch_user(context), self._enter(context))
        ]
        self._stop.add_done_callback(lambda stop: context.leave(stop.result()))
        status, reason = await context.leaving
        context.log.info("leaves: %s", reason)
        for watcher in watchers:
            watcher.cancel()
        await self._end(session_id, status, reason)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LEAVE_SECONDS):
                await asyncio.gather(*watchers, return_exceptions=True)
                await room.disconnect()

    async def _connect(self, room: rtc.Room, token: str) -> None:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(rtc.ConnectError),
            stop=stop_after_attempt(4),
            wait=wait_exponential_jitter(initial=0.2, max=3),
            reraise=True,
        ):
            with attempt:
                await room.connect(self._livekit_url, token, rtc.RoomOptions(auto_subscribe=True))

    async def _enter(self, context: AgentContext) -> None:
        try:
            await self._entrypoint(context)
        except Exception as failure:
            context.log.exception("the agent's entrypoint failed")
            context.leave(f"agent_error: {type(failure).__name__}: {failure}", failed=True)

    async def _report(self, context: AgentContext) -> None:
        """Tell the store that the agent is in the room, and then that the user is."""
        await self._say(self._link.joined)
        await context.wait_for_user()
        await self._say(lambda: self._link.active(context.session_id))

    async def _say(self, tell: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await tell()
            except IllegalMove as failure:
                log.warning("the store knows better: %s", failure.detail)
            except OrchestratorError as failure:
                log.warning("not reported yet: %s", failure.detail)
                await asyncio.sleep(self._settings.heartbeat_seconds / 5)
                continue
            return

    async def _watch_user(self, context: AgentContext) -> None:
        """Leave when the user never comes, has gone and stays away, or the session has lasted too long."""
        settings = self._settings
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.max_session_seconds):
                if not await _happens(context.user_seen, settings.user_join_seconds):
                    context.leave(f"user did not join within {settings.user_join_seconds:g} s")
                while True:
                    await context.user_gone.wait()
                    if not await _happens(context.user_present, settings.user_gone_seconds):
                        context.leave(f"user was gone for {settings.user_gone_seconds:g} s")
                        return
        context.leave(f"maximum length of {settings.max_session_seconds:g} s reached")

    async def _end(self, session_id: str, status: str, reason: str) -> None:
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._link.ended(session_id, status, reason, int(self._settings.session_keep_seconds))
        except (OrchestratorError, TimeoutError) as failure:
            log.warning("the end is not recorded by the agent: %r", failure)


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


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
