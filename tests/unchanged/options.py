"""An agent in LiveKit's older style: WorkerOptions, which only a run as a program creates."""

from livekit.agents import JobContext, JobProcess, WorkerOptions, cli


def load(proc: JobProcess) -> None:
    """Make what all jobs of the process share."""
    proc.userdata["greeting"] = "hello"


async def entrypoint(ctx: JobContext) -> None:
    """Join, and show that the older context works."""
    await ctx.connect()
    await ctx.room.local_participant.set_attributes({"greeting": ctx.proc.userdata["greeting"]})


if __name__ == "__main__":
    cli.run_app(WorkerOptions(entrypoint_fnc=entrypoint, prewarm_fnc=load))
