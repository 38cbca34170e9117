"""The echo agent, which also remembers what its session's metadata says was said."""

from agents import echo
from agents.context import AgentContext


async def entrypoint(ctx: AgentContext) -> None:
    """Remember `turns`, then echo."""
    for text in ctx.metadata.get("turns", []):
        ctx.remember("user", text)
    await echo.entrypoint(ctx)
