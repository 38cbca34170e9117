"""An echo; with `vanish` in its metadata it is out of the room soon, and neither it nor anybody else notices."""

from agents import echo
from agents.context import AgentContext


async def entrypoint(ctx: AgentContext) -> None:
    """Echo, or vanish: who takes over does not."""
    if not ctx.metadata.get("vanish") or ctx.takeovers:
        await echo.entrypoint(ctx)
        return
    await ctx.wait_for_user()
    # What follows from being out of the room, for one that notices.
    ctx.room.off("disconnected", ctx._on_disconnected)
    ctx.room.off("participant_disconnected", ctx.look)
    await ctx.room.disconnect()
