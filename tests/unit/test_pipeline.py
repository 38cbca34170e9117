"""When the voice agent apologises, hands a call over, or ends it."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from livekit.agents import APIConnectionError, APIStatusError

from agent_runtime import last_words, pipeline


class Session:
    """An agent session that only records what it should say."""

    def __init__(self) -> None:
        self.listeners: dict[str, list[Callable[[Any], None]]] = defaultdict(list)
        self.said: list[str] = []
        self.agent_state = "listening"

    def on(self, name: str, listener: Callable[[Any], None]) -> None:
        self.listeners[name].append(listener)

    def emit(self, name: str, **fields: Any) -> None:
        for listener in self.listeners[name]:
            listener(SimpleNamespace(**fields))

    def say(self, text: str, **_: Any) -> None:
        self.said.append(text)
        # LiveKit counts its failures from the start whenever the agent speaks: an apology must not reset ours.
        self.emit("agent_state_changed", old_state="listening", new_state="speaking")

    async def aclose(self) -> None:
        self.emit("close", error=None)


async def settled() -> None:
    """Run everything that is due now: timers of zero seconds, and the tasks that they start."""
    for _ in range(20):
        await asyncio.sleep(0)


class Call:
    """A watched session, and its outcome."""

    def __init__(self, takeovers: int = 0) -> None:
        self.session, self.left = Session(), asyncio.get_running_loop().create_future()
        context = SimpleNamespace(
            takeovers=takeovers, leaving=self.left, room=None, log=logging.getLogger("test"),
            leave=lambda reason, failed=False: self.left.set_result(("error" if failed else "ended", reason.text)),
            hand_over=lambda cause: self.left.set_result(("lost", cause.text)),
        )  # fmt: skip
        self.watch = pipeline.Pipeline(context, self.session, None)  # type: ignore[arg-type]

    async def error(self, failure: Exception, kind: str = "llm_error", *, recoverable: bool = False) -> None:
        self.session.emit("error", error=SimpleNamespace(type=kind, error=failure, recoverable=recoverable))
        await settled()

    async def reply(self, *items: Any) -> None:
        """Answer a turn with these items."""
        ends: list[Callable[[Any], None]] = []
        speech = SimpleNamespace(chat_items=items, interrupted=False, done=lambda: True, add_done_callback=ends.append)
        self.session.emit("speech_created", source="generate_reply", speech_handle=speech)
        for end in ends:
            end(speech)
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def last(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The last words of a call, recorded without a room."""
    said: list[str] = []

    async def say(_room: Any, text: str, _voice: Any) -> None:
        said.append(text)

    async def offline(_text: str) -> None:
        return None

    monkeypatch.setattr(last_words, "say", say)
    monkeypatch.setattr(last_words, "offline", offline)
    return said


BUSY = APIStatusError("sk-canary", status_code=529, body={"key": "sk-canary"})
ANSWER = SimpleNamespace(type="message", role="assistant")


async def test_the_agent_apologises_for_failed_turns_and_hands_over_at_the_fourth(last: list[str]) -> None:
    call = Call()
    for _ in range(3):
        await call.error(BUSY)
    assert call.session.said == [pipeline.PARDON] * 3
    assert not call.left.done()
    await call.error(BUSY)
    assert call.left.result() == ("lost", "pipeline_failed: the language model is overloaded (529)")
    assert last == [pipeline.HOLD_ON]


async def test_an_answer_resets_the_count_of_failed_turns() -> None:
    call = Call()
    for _ in range(3):
        await call.error(BUSY)
    await call.reply(ANSWER)
    for _ in range(3):
        await call.error(BUSY)
    assert not call.left.done()


async def test_a_replacement_agent_gives_up_sooner() -> None:
    call = Call(takeovers=1)
    await call.error(BUSY)
    assert not call.left.done()
    await call.error(BUSY)
    assert call.left.done()


async def test_a_recoverable_error_is_no_failed_turn() -> None:
    call = Call()
    for _ in range(9):
        await call.error(BUSY, recoverable=True)
    assert (call.session.said, call.left.done()) == ([], False)


@pytest.mark.parametrize("kind", ["llm_error", "stt_error", "tts_error"])
async def test_a_permanent_refusal_ends_the_call_immediately(kind: str, last: list[str]) -> None:
    call = Call()
    await call.error(APIStatusError("no", status_code=402), kind)
    outcome, reason = call.left.result()
    assert outcome == "error"
    assert reason.endswith("is out of credit (402)")
    assert last == [pipeline.GOODBYE]


async def test_a_stopped_recogniser_causes_an_immediate_handover() -> None:
    """LiveKit reopens its stream only after an error of the API."""
    call = Call()
    await call.error(RuntimeError("the recogniser"), "stt_error")
    assert call.left.result() == ("lost", "pipeline_failed: hearing failed with RuntimeError")


async def test_a_session_that_closes_by_itself_is_handed_over() -> None:
    call = Call()
    call.session.emit("close", error=None)
    await settled()
    assert call.left.result() == ("lost", "pipeline_failed: the speech pipeline closed")


async def test_a_turn_without_an_answer_fails() -> None:
    call = Call()
    await call.reply()
    assert call.session.said == [pipeline.PARDON]
    await call.reply(SimpleNamespace(type="function_call"))
    assert call.session.said == [pipeline.PARDON]


async def test_a_recogniser_error_during_silence_gets_no_apology() -> None:
    call = Call()
    await call.error(APIConnectionError(), "stt_error")
    assert call.session.said == []
    call.session.emit("user_state_changed", old_state="listening", new_state="speaking")
    await call.error(APIConnectionError(), "stt_error")
    assert call.session.said == [pipeline.PARDON]


async def test_speech_that_is_never_transcribed_ends_in_a_handover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "UNHEARD_SECONDS", 0.0)
    monkeypatch.setattr(pipeline, "WORDS_SECONDS", -1.0)
    call = Call()

    async def speak(*words: str) -> None:
        call.session.emit("user_state_changed", old_state="listening", new_state="speaking")
        call.session.emit("user_state_changed", old_state="speaking", new_state="listening")
        for word in words:
            call.session.emit("user_input_transcribed", transcript=word)
        await settled()

    await speak("hello")
    assert call.session.said == []
    for _ in range(4):
        await speak()
    assert call.left.result() == ("lost", "pipeline_failed: hearing finds no words")


async def test_speech_that_is_never_played_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every plugin has a timeout."""
    monkeypatch.setattr(pipeline, "AUDIBLE_SECONDS", 0.0)
    call, interrupted = Call(takeovers=1), 0

    def interrupt(*, force: bool) -> None:
        nonlocal interrupted
        interrupted += force

    for _ in range(2):
        speech = SimpleNamespace(done=lambda: False, interrupt=interrupt)
        call.session.emit("speech_created", source="say", speech_handle=speech)
    await settled()
    assert interrupted == 2
    assert call.left.result()[0] == "lost"
