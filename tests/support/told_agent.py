"""The echo agent, which also logs its session's metadata."""

import json

from agents import echo
from agents.context import AgentContext


async def entrypoint(ctx: AgentContext) -> None:
    """Log the metadata, then echo."""
    ctx.log.info("told %s", json.dumps(ctx.metadata, sort_keys=True))
    await echo.entrypoint(ctx)
