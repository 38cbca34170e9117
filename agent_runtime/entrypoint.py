"""Agents that are written for this project: `async def entrypoint(ctx)`, with an optional `prewarm()`."""

from collections.abc import Awaitable, Callable

from agent_runtime.context import AgentContext
from agent_runtime.room_kind import RoomKind

Entrypoint = Callable[[AgentContext], Awaitable[None]]


class EntrypointKind(RoomKind):
    """An agent whose entrypoint is given the session, in a room that is connected."""

    def __init__(self, entrypoint: Entrypoint) -> None:
        self._entrypoint = entrypoint

    async def serve(self, call: AgentContext) -> None:
        """Call the entrypoint."""
        await self._entrypoint(call)
