"""The voice agent under livekit-agents' own worker: the reference of P3, P5 and P6.

The agent is agents/voice.py, unchanged; only its context is created from the room of a job. Each process writes to a
file named by its pid whether it is `idle` or has a `job`, so that a benchmark can wait for that.
Only modules that the agent needs are imported, because others would count as the process's memory.
"""

import asyncio
import contextlib
import importlib
import math
import os
from pathlib import Path

from livekit.agents import AgentServer, JobContext, JobProcess, cli

from agent_runtime.context import AgentContext
from agents import voice

MODELS = "benchmarks.livekit_models"


def say(state: str) -> None:
    """Write the state of this process to its file."""
    (Path(os.environ["REFERENCE_STATES"]) / str(os.getpid())).write_text(state)


def prewarm(process: JobProcess) -> None:
    """Load the models, unless the fork server has them already (REFERENCE_MODELS=preload)."""
    importlib.import_module(MODELS)
    say("idle")


async def entrypoint(job: JobContext) -> None:
    """Talk until the room is closed. The session connects to the room as it starts, as usual in livekit-agents."""
    say("job")
    context = AgentContext(session_id=job.job.id, user_id="caller", metadata={}, room=job.room, url="", token="")
    talking = asyncio.create_task(voice.entrypoint(context))
    context.leaving.add_done_callback(lambda _: talking.cancel())
    with contextlib.suppress(asyncio.CancelledError):
        await talking


def make_server() -> AgentServer:
    """Return the worker: it takes every job, however busy the machine is, and allows for slow model loading."""
    server = AgentServer(
        setup_fnc=prewarm,
        num_idle_processes=int(os.environ["REFERENCE_IDLE"]),
        preload_modules=[MODELS] if os.environ["REFERENCE_MODELS"] == "preload" else [],
        load_threshold=math.inf,
        # LiveKit's server silently gives no job to a worker that reports a full load.
        load_fnc=lambda: 0.0,
        initialize_process_timeout=60,
        host="127.0.0.1",
        port=0,
    )
    server.rtc_session(entrypoint, agent_name=os.environ["REFERENCE_NAME"])
    return server


if __name__ == "__main__":
    cli.run_app(make_server())
