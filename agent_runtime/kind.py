"""How an agent's code is run: what differs between agents of our own entrypoint and those of a framework."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from livekit import rtc

from agent_runtime.context import AgentContext

#: Connects the session's room, however long LiveKit takes. Without options: as an agent of our own joins.
Connect = Callable[[rtc.RoomOptions | None], Awaitable[None]]


class Kind(ABC):
    """One agent's code, loaded. It is made before agents are forked, and each process serves one session with it."""

    async def warm_up(self) -> None:  # noqa: B027 - most kinds have nothing to do
        """Prepare what can only be prepared in the agent's own process, before it reports that it is warm."""

    def make_room(self) -> rtc.Room:
        """Return the session's room, not connected."""
        return rtc.Room()

    async def join(self, context: AgentContext, connect: Connect) -> None:
        """Return when `context.room` is connected. A framework that connects by itself is given this connection."""
        await connect(None)

    @abstractmethod
    async def serve(self, context: AgentContext) -> None:
        """Serve the session. It may return: the session lasts until its user or the agent leaves."""

    async def leave(self, context: AgentContext) -> None:  # noqa: B027 - as above
        """Do what must be done before the room is left: the end of the session is reported already, or is now."""

    async def wind_down(self, context: AgentContext) -> None:  # noqa: B027 - as above
        """Do the work after the call, for SHUTDOWN_SECONDS at most: the room is left, and the seat is free."""
