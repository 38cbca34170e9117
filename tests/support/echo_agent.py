"""The echo agent, which also stores the turns of conversation in its session's metadata."""

from agent_runtime.context import AgentContext
from agents import echo


async def entrypoint(ctx: AgentContext) -> None:
    """Store the metadata's `turns` as the conversation, then echo."""
    for text in ctx.metadata.get("turns", []):
        ctx.remember("user", text)
    await echo.entrypoint(ctx)
