"""An echo that can be told, by a message of its user's, to be out of the room: neither it nor anybody else notices."""

import asyncio

from agents import echo
from agents.context import AgentContext
from orchestrator.store.agent_link import AgentLink


async def _untold(*_: object, **__: object) -> None:
    """Who is in the room is told to nobody."""


AgentLink.presence = _untold  # type: ignore[method-assign]


async def entrypoint(ctx: AgentContext) -> None:
    """Echo until there is a message."""
    told = asyncio.Event()
    ctx.room.on("data_received", lambda _: told.set())
    echoing = asyncio.create_task(echo.entrypoint(ctx))
    try:
        await told.wait()
    finally:
        echoing.cancel()
    # What would follow from being out of the room, for one that notices.
    ctx.room.off("disconnected", ctx._on_disconnected)
    ctx.room.off("participant_disconnected", ctx.update_presence)
    await ctx.room.disconnect()
