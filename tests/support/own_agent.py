"""A program of one's own that keeps the agent's contract: what AGENT_COMMAND may start."""

from agent_runtime.context import AgentContext
from agent_runtime.runtime import run


async def serve(ctx: AgentContext) -> None:
    """Say who is served."""
    ctx.log.info("own agent serves %s", ctx.user_id)
    await ctx.set_state("listening")


if __name__ == "__main__":
    run(serve)
