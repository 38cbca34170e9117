"""The sound that stand-ins of hosted models send and receive: the offline voice and the offline recogniser."""

import asyncio
import io
from collections.abc import Iterator

import av
import numpy as np
from numpy.typing import NDArray

from agent_runtime.offline import speech

#: Samples per second that hosted voices send, and that hosted recognisers receive.
TTS_RATE, STT_RATE = 24_000, 16_000


async def spoken(text: str) -> NDArray[np.int16]:
    """Return the sound of a text at `TTS_RATE`."""
    return await asyncio.to_thread(_speak, text)


def _speak(text: str) -> NDArray[np.int16]:
    sound = np.concatenate([speech.voice().speak(piece) for piece in speech.in_pieces(text)])
    wanted = np.arange(0, len(sound), speech.TTS_RATE / TTS_RATE)
    return np.interp(wanted, np.arange(len(sound)), sound).astype(np.int16)


def pieces(sound: NDArray[np.int16]) -> Iterator[bytes]:
    """Cut a sound into pieces of a tenth of a second."""
    step = TTS_RATE // 10
    for start in range(0, len(sound), step):
        yield sound[start : start + step].tobytes()


def mp3(sound: NDArray[np.int16]) -> bytes:
    """Encode a sound as MP3."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=TTS_RATE)
        stream.layout = "mono"  # type: ignore[union-attr]
        frame = av.AudioFrame.from_ndarray(sound.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = TTS_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:  # type: ignore[union-attr, call-overload]
            container.mux(packet)
    return target.getvalue()


def text_of_wav(data: bytes) -> str:
    """Return the text that the recogniser hears in a WAV file."""
    with av.open(io.BytesIO(data)) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=STT_RATE)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return speech.recogniser().hear(np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]))
