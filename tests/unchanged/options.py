"""An agent in LiveKit's older style: WorkerOptions, which only a run as a program creates. Its metadata commands it."""

from livekit.agents import JobContext, JobProcess, WorkerOptions, cli


def load(proc: JobProcess) -> None:
    """Make what all jobs of the process share."""
    proc.userdata["greeting"] = "hello"


async def entrypoint(ctx: JobContext) -> None:
    """Join, and show that the older context works; or end in one of two ways."""
    if "leave" in ctx.job.metadata:
        ctx.shutdown("not for me")
        return
    await ctx.connect()
    if "fail" in ctx.job.metadata:
        raise RuntimeError("this agent fails")
    await ctx.room.local_participant.set_attributes({"greeting": ctx.proc.userdata["greeting"]})


if __name__ == "__main__":
    cli.run_app(WorkerOptions(entrypoint_fnc=entrypoint, prewarm_fnc=load))
