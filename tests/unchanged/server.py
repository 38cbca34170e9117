"""An agent as it is written for LiveKit's own worker. It knows nothing of the orchestrator but an offline voice.

It answers the method `ask` with what its job context says, and does what the methods `shut_down` and `fail` ask for.
"""

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

from livekit import api, rtc
from livekit.agents import (
    Agent,
    AgentServer,
    AgentSession,
    JobContext,
    JobProcess,
    JobRequest,
    cli,
    inference,
    llm,
    utils,
)
from livekit.agents.beta.tools import EndCallTool

from agent_runtime.offline import speech
from agent_runtime.offline.plugins import OfflineSTT, OfflineTTS
from agent_runtime.offline.rules import RuleBasedLLM
from tests.support.processes import poll

os.environ["SET_AT_IMPORT"] = "yes"  # as load_dotenv() does
log = logging.getLogger("unchanged")


def prewarm(proc: JobProcess) -> None:
    """Load the models."""
    speech.warm_up(hear=True, speak=True)
    proc.userdata["vad"] = inference.VAD()
    proc.userdata["warmed_by"] = os.getpid()


server = AgentServer(setup_fnc=prewarm)


class Model(RuleBasedLLM):
    """A model that ends the call by LiveKit's tool when the user says goodbye."""

    def chat(self, *, chat_ctx: llm.ChatContext, **options: Any) -> llm.LLMStream:
        """Return the answer, or the call of the tool."""
        last = chat_ctx.items[-1] if chat_ctx.items else None
        if getattr(last, "role", "") == "user" and "bye" in (last.text_content or ""):  # type: ignore[union-attr]
            return _EndCall(self, chat_ctx=chat_ctx, tools=[], conn_options=options["conn_options"])
        return super().chat(chat_ctx=chat_ctx, **options)


class _EndCall(llm.LLMStream):
    async def _run(self) -> None:
        call = llm.FunctionToolCall(name="end_call", arguments="{}", call_id=utils.shortuuid())
        delta = llm.ChoiceDelta(role="assistant", tool_calls=[call])
        self._event_ch.send_nowait(llm.ChatChunk(id=utils.shortuuid(), delta=delta))


async def on_request(request: JobRequest) -> None:
    """Accept every job, under a name."""
    await request.accept(name="Unchanged", attributes={"speaks": "English"})


async def on_session_end(ctx: JobContext) -> None:
    """Write the session's report."""
    report = ctx.make_session_report()
    _write(ctx, "report", [item.text_content for item in report.chat_history.messages() if item.role != "system"])


@server.rtc_session(agent_name="unchanged", on_request=on_request, on_session_end=on_session_end)
async def talk(ctx: JobContext) -> None:
    """Talk, and answer questions about the job."""
    ctx.log_context_fields = {"room": ctx.room.name}

    async def save(reason: str) -> None:
        await _released(ctx)
        _write(ctx, "saved", reason)

    ctx.add_shutdown_callback(save)
    session: AgentSession[None] = AgentSession(
        vad=ctx.proc.userdata["vad"], stt=OfflineSTT(), llm=Model(), tts=OfflineTTS(),
        turn_handling={"turn_detection": "vad", "interruption": {"mode": "vad"}},
    )  # fmt: skip
    agent = Agent(instructions="Be brief.", tools=[EndCallTool()])
    await session.start(agent, room=ctx.room)
    _answer_methods(ctx, session)
    caller = await ctx.wait_for_participant()
    log.info("talks to %s", caller.identity)
    await session.say("Hello from an unchanged agent.")


def _answer_methods(ctx: JobContext, session: "AgentSession[None]") -> None:
    participant = ctx.room.local_participant

    @participant.register_rpc_method("ask")
    async def ask(_: rtc.RpcInvocationData) -> str:
        return json.dumps(await _facts(ctx, session))

    @participant.register_rpc_method("shut_down")
    async def shut_down(_: rtc.RpcInvocationData) -> str:
        ctx.shutdown("enough said")
        return ""

    @participant.register_rpc_method("delete_room")
    async def delete_room(_: rtc.RpcInvocationData) -> str:
        ctx.delete_room()
        return ""


async def _facts(ctx: JobContext, session: "AgentSession[None]") -> dict[str, Any]:
    present = await ctx.api.room.list_participants(api.ListParticipantsRequest(room=ctx.room.name))
    return {
        "jobId": ctx.job.id,
        "metadata": ctx.job.metadata,
        "attributes": dict(ctx.job.attributes),
        "agentName": ctx.job.agent_name,
        "roomSid": ctx.job.room.sid,
        "identity": ctx.token_claims().identity,
        "participants": sorted(each.identity for each in present.participants),
        "warmedBefore": ctx.proc.userdata["warmed_by"] != os.getpid(),
        "setAtImport": os.environ.get("SET_AT_IMPORT"),
        "secret": os.environ.get("LIVEKIT_API_SECRET"),
        "allRooms": await _refusal(ctx.api.room.list_rooms(api.ListRoomsRequest())),
        "ownToken": _token(),
        "history": [
            item.text_content
            for item in session.current_agent.chat_ctx.messages()
            if item.role in {"user", "assistant"}
        ],
    }


async def _refusal(asked: Any) -> str:
    try:
        await asked
    except api.ServerError as failure:
        return str(failure)
    return ""


def _token() -> str:
    try:
        return api.AccessToken().to_jwt()
    except ValueError as failure:
        return str(failure)


def _folder(ctx: JobContext) -> Path:
    return Path(json.loads(ctx.job.metadata)["folder"])


def _write(ctx: JobContext, name: str, what: object) -> None:
    path = _folder(ctx) / f"{name}.json"
    path.with_suffix(".new").write_text(json.dumps(what))
    path.with_suffix(".new").rename(path)


async def _released(ctx: JobContext) -> None:
    """Work for as long as the test wants."""
    (_folder(ctx) / "saving").touch()
    await asyncio.to_thread(poll, (_folder(ctx) / "release").exists, "the test releases the agent", 50)


if __name__ == "__main__":
    cli.run_app(server)
