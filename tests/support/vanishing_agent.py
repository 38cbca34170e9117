"""An echo agent that leaves the room when its user sends a message, without noticing or reporting it."""

import asyncio

from agent_runtime.context import AgentContext
from agent_runtime.relay_link import RelayLink
from agents import echo


async def _untold(*_: object, **__: object) -> None:
    """Replaces `RelayLink.presence`, so that presence is not reported."""


RelayLink.presence = _untold  # type: ignore[method-assign]


async def entrypoint(ctx: AgentContext) -> None:
    """Echo until a message comes, then leave the room."""
    told = asyncio.Event()
    ctx.room.on("data_received", lambda _: told.set())
    echoing = asyncio.create_task(echo.entrypoint(ctx))
    try:
        await told.wait()
    finally:
        echoing.cancel()
    # Without these handlers the agent does not react to its own disconnection.
    ctx.room.off("disconnected", ctx._on_disconnected)
    ctx.room.off("participant_disconnected", ctx.update_presence)
    await ctx.room.disconnect()
