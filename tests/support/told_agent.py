"""The echo agent, which says what it was told."""

import json

from agents import echo
from agents.context import AgentContext


async def entrypoint(ctx: AgentContext) -> None:
    """Log the metadata, and repeat what is heard."""
    ctx.log.info("told %s", json.dumps(ctx.metadata, sort_keys=True))
    await echo.entrypoint(ctx)
