"""Kinds of agents whose own process joins the session's room."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from livekit import rtc
from livekit.rtc._ffi_client import FfiClient
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from agent_runtime import incoming
from agent_runtime.call import given
from agent_runtime.context import AgentContext
from agent_runtime.kind import Kind, NoRoom
from orchestrator.config.agent import AgentSettings
from orchestrator.livekit.refusals import Refusal
from orchestrator.reasons import because

#: Connects the session's room, however long LiveKit takes. Without options: as an agent of our own joins.
Connect = Callable[[rtc.RoomOptions | None], Awaitable[None]]


class RoomKind(Kind[AgentContext]):
    """One agent's code, which is given a `livekit.rtc.Room`."""

    def prepare(self) -> None:
        """Start the threads of LiveKit's native library now, not during the call."""
        _ = FfiClient.instance

    def make_room(self) -> rtc.Room:
        """Return the session's room, not connected."""
        return rtc.Room()

    async def join(self, context: AgentContext, connect: Connect) -> None:
        """Return when `context.room` is connected. A framework that connects by itself is given this connection."""
        await connect(None)

    @abstractmethod
    async def serve(self, call: AgentContext) -> None:
        """Serve the session. It may return: the session lasts until its user or the agent leaves."""

    def begin(self, assignment: Mapping[str, Any], url: str, settings: AgentSettings) -> AgentContext:
        """Return the session with its room, watched for what its caller sends."""
        context = AgentContext(
            room=self.make_room(), room_name=assignment["room"], api_token=assignment.get("apiToken", ""),
            job=assignment.get("job", ""), **given(assignment, url),
        )  # fmt: skip
        incoming.watch(context, settings.agent_data_mb)
        return context

    async def enter(self, call: AgentContext, no_room: NoRoom) -> None:
        """Join the room."""
        await self.join(call, partial(_connect, call, no_room))
        call.update_presence()

    async def part(self, call: AgentContext) -> None:
        """Disconnect."""
        await call.room.disconnect()


async def _connect(context: AgentContext, no_room: NoRoom, options: rtc.RoomOptions | None) -> None:
    """Connect the room.

    LiveKit may be unavailable for a while: tries until the store gives this agent up. A refusal that any agent would
    get ends the session.
    """
    async for attempt in AsyncRetrying(
        # guard: join-retry
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
                await context.room.connect(context.url, context.token, options or incoming.OPTIONS)
            except rtc.ConnectError as failure:
                await _on_refusal(context, no_room, Refusal.read(failure))
                raise


async def _on_refusal(context: AgentContext, no_room: NoRoom, refusal: Refusal | None) -> None:
    if refusal is None:
        return
    if refusal.no_room:
        await no_room(refusal.words)
    # guard: permanent-refusal
    elif refusal.permanent:
        context.leave(because("join_refused", detail=refusal.words), failed=True)
