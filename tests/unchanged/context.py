"""An agent for LiveKit's own worker that says what its job context can do: the method `ask` answers with all of it."""

import json
import math
import os
from pathlib import Path
from typing import Any, ClassVar

from livekit import rtc
from livekit.agents import (
    Agent,
    AgentServer,
    AgentSession,
    AutoSubscribe,
    JobContext,
    JobProcess,
    JobRequest,
    cli,
    get_job_context,
    room_io,
)
from livekit.agents.inference_runner import _InferenceRunner

from agent_runtime.offline.rules import RuleBasedLLM

os.environ["SET_AT_IMPORT"] = "yes"


class Doubler(_InferenceRunner):
    """A model that answers with what it is given, twice."""

    INFERENCE_METHOD: ClassVar[str] = "doubler"

    def initialize(self) -> None:
        """Load nothing."""

    def run(self, data: bytes) -> bytes:
        """Return the data twice."""
        return data + data


_InferenceRunner.register_runner(Doubler)


def prewarm(proc: JobProcess) -> None:
    """Make what the process's job shares."""
    proc.userdata["made"] = ["once"]


# A worker of LiveKit that finds its machine busy takes no job.
server = AgentServer(
    setup_fnc=prewarm, num_idle_processes=1, load_fnc=lambda: 0.0, load_threshold=math.inf, host="127.0.0.1", port=0,
    initialize_process_timeout=60,
)  # fmt: skip


async def on_request(request: JobRequest) -> None:
    """Accept the job under a name, with attributes and metadata."""
    await request.accept(name="Context", metadata="about the agent", attributes={"speaks": "English"})


async def on_session_end(ctx: JobContext) -> None:
    """Write what the session's report has."""
    report = ctx.make_session_report()
    _write(ctx, "report", [item.role for item in report.chat_history.messages()])


@server.rtc_session(agent_name="context", on_request=on_request, on_session_end=on_session_end)
async def run(ctx: JobContext) -> None:
    """Use everything, and answer."""
    joined: list[str] = []

    async def with_participant(_: JobContext, participant: rtc.RemoteParticipant) -> None:
        joined.append(participant.identity)

    async def saved(reason: str) -> None:
        _write(ctx, "saved", reason)

    ctx.add_participant_entrypoint(with_participant)
    ctx.add_shutdown_callback(saved)
    ctx.log_context_fields = {"room": ctx.job.room.name}
    before = {"connected before": ctx.room.isconnected(), "room name before": ctx.room.name == ctx.job.room.name}
    await ctx.connect(auto_subscribe=AutoSubscribe.AUDIO_ONLY)
    participant = await ctx.wait_for_participant()
    session: AgentSession[None] = AgentSession(llm=RuleBasedLLM())
    written = room_io.RoomOptions(audio_input=False, audio_output=False)
    await session.start(Agent(instructions="Be brief."), room=ctx.room, room_options=written)
    facts = before | await _facts(ctx, session, participant)

    @ctx.room.local_participant.register_rpc_method("ask")
    async def ask(_: rtc.RpcInvocationData) -> str:
        return json.dumps(facts | {"participant entrypoint": joined == [participant.identity]})

    @ctx.room.local_participant.register_rpc_method("end")
    async def end(data: rtc.RpcInvocationData) -> str:
        if data.payload == "shutdown":
            ctx.shutdown("all is said")
        else:
            ctx.delete_room()
        return ""

    await ctx.room.local_participant.set_attributes({"ready": "yes"})


async def _facts(ctx: JobContext, session: "AgentSession[None]", user: rtc.RemoteParticipant) -> dict[str, Any]:
    doubled = await ctx.inference_executor.do_inference("doubler", b"ab")
    claims = ctx.token_claims()
    return {
        "the user": user.identity,
        "userdata": ctx.proc.userdata,
        "job metadata": ctx.job.metadata,
        "job agent name": ctx.job.agent_name,
        "job room": ctx.job.room.name == ctx.room.name,
        "job room sid": ctx.job.room.sid == await ctx.room.sid,
        "job has an id": bool(ctx.job.id),
        "recording": ctx.job.enable_recording,
        "worker has an id": bool(ctx.worker_id),
        "fake": ctx.is_fake_job(),
        "simulated": ctx.simulation_context() is not None,
        "executor": ctx.proc.executor_type.value,
        "context of the task": get_job_context() is ctx,
        "agent is the local participant": ctx.agent.identity == ctx.room.local_participant.identity,
        "identity of the token": claims.identity == ctx.local_participant_identity == ctx.agent.identity,
        "kind of the token": claims.kind,
        "inference": doubled.decode() if doubled else None,
        "environment of the import": os.environ.get("SET_AT_IMPORT"),
        "primary session": ctx.primary_session is session,
        "session directory": ctx.session_directory.is_dir(),
        "log fields": list(ctx.log_context_fields),
        "own room by the api": await _participants(ctx),
    }


async def _participants(ctx: JobContext) -> bool:
    from livekit import api

    present = await ctx.api.room.list_participants(api.ListParticipantsRequest(room=ctx.room.name))
    return ctx.agent.identity in {each.identity for each in present.participants}


def _write(ctx: JobContext, name: str, what: object) -> None:
    path = Path(json.loads(ctx.job.metadata)["folder"]) / f"{name}.json"
    path.with_suffix(".new").write_text(json.dumps(what))
    path.with_suffix(".new").rename(path)


if __name__ == "__main__":
    cli.run_app(server)
