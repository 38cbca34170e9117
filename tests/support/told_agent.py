"""The echo agent, which also logs its session's metadata."""

import json

from agent_runtime.context import AgentContext
from agents import echo


async def entrypoint(ctx: AgentContext) -> None:
    """Log the metadata, then echo."""
    ctx.log.info("told %s", json.dumps(ctx.metadata, sort_keys=True))
    await echo.entrypoint(ctx)
