"""Agents that misbehave, for tests."""

import os
import signal
import time

from agents.context import AgentContext


async def entrypoint(ctx: AgentContext) -> None:
    """Do what the session's metadata says, once the user is there."""
    await ctx.set_state("listening")
    print("ready for", ctx.metadata.get("do", "nothing"), flush=True)  # noqa: T201 - what a crashing agent prints is kept
    await ctx.wait_for_user()
    match ctx.metadata.get("do"):
        case "raise":
            raise RuntimeError("told to fail")
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "show":
            ctx.log.info("sees OPENAI_API_KEY=%s OWN=%s", os.environ.get("OPENAI_API_KEY"), os.environ.get("OWN"))
            ctx.log.info("sees secret=%s", os.environ.get("LIVEKIT_API_SECRET"))
            ctx.leave("shown")
        case "hang":
            time.sleep(3600)  # the event loop hangs, as a blocking call of somebody's tool does
        case "leave":
            ctx.leave("done here")
