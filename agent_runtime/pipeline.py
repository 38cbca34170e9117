"""Watches the speech pipeline of a call: apologises for a failed turn, and leaves when no further turn can work.

A turn fails if a part reports an error, if the model gives no answer, or if the user's speech leads to nothing. The
pipeline is over after several failures in a row, when LiveKit has closed it, when speech recognition has stopped, or
when a provider refuses permanently. Another agent cannot fix a wrong key or a lack of credit, so that ends the call at
once; otherwise another agent takes over, up to MAX_TAKEOVERS times. The reason names the part and the kind of failure,
and quotes nothing from a provider, which may contain addresses and parts of keys.
"""

import asyncio
import contextvars
from typing import Any

from livekit.agents import AgentSession, APIConnectionError, APIError, APIStatusError, APITimeoutError, tts

from agent_runtime import last_words
from agent_runtime.context import AgentContext
from orchestrator.reasons import because

#: Time limit for the last sentence: the call must be handed over or ended within ten seconds.
LAST_WORDS_SECONDS = 8.0
#: Failed turns in a row that do not end the pipeline. After a takeover the user has heard apologies already.
TOLERANCE, LATER_TOLERANCE = 3, 1
#: If the user has spoken for WORDS_SECONDS, longer than a cough, words must arrive within UNHEARD_SECONDS.
UNHEARD_SECONDS, WORDS_SECONDS = 6.0, 1.5
#: The agent's speech must be audible within this time: not every plugin has a timeout.
AUDIBLE_SECONDS = 15.0
_PARTS = {"stt_error": "hearing", "llm_error": "the language model", "tts_error": "the voice"}
_REFUSALS = {
    401: "refuses the key",
    402: "is out of credit",
    403: "refuses the key",
    404: "does not know the model",
}
_BUSY = {429: "has had too many requests", 503: "is overloaded", 529: "is overloaded"}

PARDON = "I am sorry, I did not get that. Please say it again."
LOST_VOICE = "I am sorry, I lost my voice for a moment. Please go on."
HOLD_ON = "I am sorry, I have a technical problem. Please hold on."
GOODBYE = "I am sorry, a technical problem ends our call. Goodbye."


def describe(failure: BaseException) -> tuple[str, bool]:
    """Return a provider's failure in our own words, and whether it is permanent."""
    if isinstance(failure, APIStatusError):
        return _status(failure.status_code, str(failure.body))
    kinds = (
        (APITimeoutError, "did not answer in time"),
        (APIConnectionError, "cannot be reached"),
        (APIError, "reported an error"),
    )
    if isinstance(failure.__cause__, ValueError):
        return "answers what is no protocol", False
    words = (words for kind, words in kinds if isinstance(failure, kind))
    return next(words, f"failed with {type(failure).__name__}"), False


def _status(code: int, body: str) -> tuple[str, bool]:
    if code == 429 and "insufficient_quota" in body:
        return f"is out of credit ({code})", True
    if code in _REFUSALS:
        return f"{_REFUSALS[code]} ({code})", True
    if code in _BUSY:
        return f"{_BUSY[code]} ({code})", False
    # Other codes are close codes of a websocket.
    return (f"answered {code}" if 400 <= code < 600 else f"closed the connection ({code})"), False


class Pipeline:
    """Watches one session's pipeline."""

    def __init__(self, ctx: AgentContext, session: "AgentSession[None]", voice: "tts.TTS[Any]") -> None:
        self._ctx, self._session, self._voice = ctx, session, voice
        self.over = False  #: the agent leaves, and later failures follow from that
        self._failures, self._tolerance = 0, LATER_TOLERANCE if ctx.takeovers else TOLERANCE
        self._trouble = "the speech pipeline closed"
        self._failed = False  #: the current turn has failed
        self._spoken_to = False  #: the user has said something that has no answer yet
        self._began = 0.0  #: when the user began to speak
        self._unheard: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        # LiveKit's HTTP session belongs to the context in which it was opened.
        self._context = contextvars.copy_context()
        for name, listener in (
            ("error", self._on_error), ("close", self._on_close), ("speech_created", self._on_speech),
            ("user_state_changed", self._on_user), ("user_input_transcribed", self._on_words),
            ("agent_state_changed", self._on_agent),
        ):  # fmt: skip
            session.on(name, listener)  # type: ignore[arg-type]

    # Events from LiveKit

    def _on_error(self, event: Any) -> None:
        if self.over or self._ctx.leaving.done():
            return
        error = event.error
        kind = getattr(error, "type", "")
        words, for_good = describe(error.error)
        trouble = f"{_PARTS.get(kind, 'the speech pipeline')} {words}"
        if error.recoverable:
            self._ctx.log.warning("%s: LiveKit tries again", trouble)
            return
        # LiveKit reopens the recognition stream only after an APIError.
        # guard: refusal-ends
        if for_good or (kind == "stt_error" and not isinstance(error.error, APIError)):
            self._trouble = trouble
            self._leave(for_good=for_good)
        elif kind != "stt_error" or self._spoken_to:
            self._fail(trouble, lost_voice=kind == "tts_error")
        else:
            self._trouble = trouble

    def _on_close(self, _: object) -> None:
        # guard: pipeline-closed
        self._leave(for_good=False)

    def _on_speech(self, event: Any) -> None:
        self._loop.call_later(AUDIBLE_SECONDS, self._on_silence, event.speech_handle)
        if event.source == "generate_reply":
            self._failed = False
            event.speech_handle.add_done_callback(self._on_reply)

    def _on_silence(self, speech: Any) -> None:
        if speech.done() or self.over or self._ctx.leaving.done():
            return
        if self._session.agent_state == "speaking":
            self._loop.call_later(AUDIBLE_SECONDS, self._on_silence, speech)
        else:
            speech.interrupt(force=True)
            self._fail(f"nothing was said within {AUDIBLE_SECONDS:g} s", lost_voice=True)

    def _on_reply(self, speech: Any) -> None:
        if speech.interrupted or self._failed:
            return
        if any(item.type == "function_call" or getattr(item, "role", "") == "assistant" for item in speech.chat_items):
            self._failures = 0
        else:
            self._fail("the language model gave no answer")

    def _on_user(self, event: Any) -> None:
        if self._unheard:
            self._unheard.cancel()
            self._unheard = None
        if event.new_state == "speaking":
            self._spoken_to, self._began = True, self._loop.time()
        elif event.old_state == "speaking" and self._loop.time() - self._began > WORDS_SECONDS:
            self._unheard = self._loop.call_later(UNHEARD_SECONDS, self._fail, "hearing finds no words")

    def _on_words(self, event: Any) -> None:
        if event.transcript and self._unheard:
            self._unheard.cancel()
            self._unheard = None
        if event.transcript:
            self._began = float("inf")

    def _on_agent(self, event: Any) -> None:
        if event.new_state == "speaking":
            # guard: apologies
            self._spoken_to = False

    # Consequences

    def _fail(self, trouble: str, *, lost_voice: bool = False) -> None:
        if self.over or self._ctx.leaving.done():
            return
        self._failed, self._trouble = True, trouble
        self._failures += 1
        self._ctx.log.error("a turn failed, %d in a row: %s", self._failures, trouble)
        if self._failures > self._tolerance:
            self._leave(for_good=False)
        else:
            self._begin(self._apologise(lost_voice=lost_voice))

    def _leave(self, *, for_good: bool) -> None:
        if not self.over and not self._ctx.leaving.done():
            self.over = True
            self._begin(self._end(for_good=for_good))

    def _begin(self, task: Any) -> None:
        started = self._loop.create_task(task, context=self._context.copy())
        self._tasks.add(started)
        started.add_done_callback(self._tasks.discard)

    async def _apologise(self, *, lost_voice: bool) -> None:
        """Apologise in the session. If the voice has just failed, the offline one speaks, if there is one."""
        sound = await last_words.offline(LOST_VOICE) if lost_voice else None
        if self.over or (lost_voice and sound is None):
            return
        try:
            if sound is None:
                self._session.say(PARDON, add_to_chat_ctx=False)
            else:
                self._session.say(LOST_VOICE, audio=last_words.as_stream(sound), add_to_chat_ctx=False)
        except RuntimeError as failure:  # the session is closing
            self._ctx.log.warning("could not apologise for a failed turn: %s", failure)

    async def _end(self, *, for_good: bool) -> None:
        reason = because("pipeline_failed", detail=self._trouble)
        self._ctx.log.error("%s", reason.text)
        try:
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await self._session.aclose()
                await last_words.say(self._ctx.room, GOODBYE if for_good else HOLD_ON, self._voice)
        except Exception as failure:
            self._ctx.log.warning("the user was not told: %s", type(failure).__name__)
        if for_good:
            self._ctx.leave(reason, failed=True)
        else:
            self._ctx.hand_over(reason)
