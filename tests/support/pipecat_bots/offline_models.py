"""Models for bots of tests: a recogniser that hears data messages, one that answers by rules, one that hums."""

import json
import math
import struct
from collections.abc import AsyncIterator
from typing import Any

from pipecat.frames.frames import (
    Frame,
    InputTransportMessageFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService

RATE = 24000


class Recogniser(FrameProcessor):
    """Takes `{"say": words}`, sent as data, for speech."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputTransportMessageFrame) and "say" in frame.message:
            await self.push_frame(UserStartedSpeakingFrame())
            await self.push_frame(TranscriptionFrame(frame.message["say"], "", ""))
            await self.push_frame(UserStoppedSpeakingFrame())
        else:
            await self.push_frame(frame, direction)


class Model(FrameProcessor):
    """Greets when it is asked to, and otherwise repeats all that it was ever told by the user.

    Told `refuse`, it fails as a service does whose key is refused.
    """

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame) and frame.context.get_messages()[-1]["content"] == "refuse":
            await self.push_error("the key is refused", force_treat_as_permanent=True)
        elif isinstance(frame, LLMContextFrame):
            await self.push_frame(LLMFullResponseStartFrame())
            await self.push_frame(LLMTextFrame(answer(frame.context.get_messages())))
            await self.push_frame(LLMFullResponseEndFrame())
        else:
            await self.push_frame(frame, direction)


def answer(messages: list[Any]) -> str:
    print("the context is", json.dumps(messages), flush=True)
    said = [one["content"] for one in messages if one["role"] == "user"]
    return f"You said {' and '.join(said)}." if said else "Hello, I am the bot."


class Voice(TTSService):
    """Hums for as long as the words would take."""

    def __init__(self) -> None:
        settings = TTSSettings(model=None, voice=None, language=None)
        super().__init__(sample_rate=RATE, settings=settings, push_start_frame=True, push_stop_frames=True)

    async def run_tts(self, text: str, context_id: str) -> AsyncIterator[Frame]:
        samples = (int(9000 * math.sin(at * 440 * math.tau / RATE)) for at in range(RATE * len(text) // 30))
        sound = struct.pack(f"<{RATE * len(text) // 30}h", *samples)

        async def pieces() -> AsyncIterator[bytes]:
            yield sound

        async for frame in self._stream_audio_frames_from_iterator(
            pieces(), in_sample_rate=RATE, context_id=context_id
        ):
            yield frame
