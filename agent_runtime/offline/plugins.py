"""Offline speech as plugins of LiveKit Agents."""

import asyncio

import numpy as np
from livekit import rtc
from livekit.agents import APIConnectOptions, stt, tts, utils
from livekit.agents.language import LanguageCode
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, NotGivenOr

from agent_runtime.offline import speech


class OfflineTTS(tts.TTS[str]):
    """The joe voice as a LiveKit TTS."""

    def __init__(self) -> None:
        super().__init__(capabilities=tts.TTSCapabilities(streaming=False), sample_rate=speech.TTS_RATE, num_channels=1)

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> tts.ChunkedStream:
        """Return the sound of one piece of text."""
        return _Spoken(tts=self, input_text=text, conn_options=conn_options)


class _Spoken(tts.ChunkedStream):
    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        output_emitter.initialize(
            request_id=utils.shortuuid(), sample_rate=speech.TTS_RATE, num_channels=1, mime_type="audio/pcm"
        )
        for piece in speech.in_pieces(self._input_text):
            sound = await asyncio.to_thread(speech.voice().speak, piece)
            output_emitter.push(sound.tobytes())
        output_emitter.flush()


class OfflineSTT(stt.STT[str]):
    """Moonshine as a LiveKit STT."""

    def __init__(self) -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=False, interim_results=False))

    async def _recognize_impl(
        self,
        buffer: utils.AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> stt.SpeechEvent:
        text = await asyncio.to_thread(_hear, rtc.combine_audio_frames(buffer))
        return stt.SpeechEvent(
            type=stt.SpeechEventType.FINAL_TRANSCRIPT,
            alternatives=[stt.SpeechData(language=LanguageCode("en"), text=text)],
        )


def _hear(frame: rtc.AudioFrame) -> str:
    resampler = rtc.AudioResampler(frame.sample_rate, speech.STT_RATE, num_channels=frame.num_channels)
    frames = [*resampler.push(frame), *resampler.flush()]
    sound = np.concatenate([np.frombuffer(part.data, dtype=np.int16) for part in frames])
    return speech.recogniser().hear(sound.reshape(-1, frame.num_channels)[:, 0])
