"""An agent for LiveKit's worker whose session function fails."""

from livekit.agents import AgentServer, JobContext, cli

server = AgentServer()


@server.rtc_session()
async def fail(ctx: JobContext) -> None:
    """Join, then fail."""
    await ctx.connect()
    raise RuntimeError("this agent always fails")


if __name__ == "__main__":
    cli.run_app(server)
