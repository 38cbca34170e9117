"""Says a sentence to the user when the speech pipeline cannot, on a track of its own.

The offline voice speaks if it is installed, otherwise the hosted one is tried once more.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from livekit import rtc
from livekit.agents import tts
from livekit.agents.types import ATTRIBUTE_TRANSCRIPTION_FINAL, ATTRIBUTE_TRANSCRIPTION_TRACK_ID, TOPIC_TRANSCRIPTION

from agent_runtime.offline import speech

#: Time limit for the user's client to subscribe to the new track.
HEARD_SECONDS = 2.0
#: Seconds to wait after the last sound: sound in transit is lost when the track ends.
TAIL_SECONDS = 1.0


async def offline(text: str) -> rtc.AudioFrame | None:
    """Return a sentence in the offline voice; None if that is not installed."""
    try:
        sound = await asyncio.to_thread(lambda: speech.voice().speak(text))
    except ImportError:
        return None
    return rtc.AudioFrame(sound.tobytes(), speech.TTS_RATE, 1, len(sound))


async def as_stream(frame: rtc.AudioFrame) -> AsyncIterator[rtc.AudioFrame]:
    """Yield a sound in pieces of 100 ms, as an agent session and a track take it."""
    step = frame.sample_rate // 10
    samples = frame.data
    for start in range(0, len(samples), step):
        piece = samples[start : start + step]
        yield rtc.AudioFrame(piece.tobytes(), frame.sample_rate, 1, len(piece))


async def say(room: rtc.Room, text: str, hosted: "tts.TTS[Any]") -> None:
    """Say a sentence to its end. Without the offline voice, raises what the hosted one raises."""
    sound = await offline(text)
    if sound is None:
        sound = rtc.combine_audio_frames([event.frame async for event in hosted.synthesize(text)])
    source = rtc.AudioSource(sound.sample_rate, 1)
    track = rtc.LocalAudioTrack.create_audio_track("last-words", source)
    options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
    try:
        publication = await room.local_participant.publish_track(track, options)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARD_SECONDS):
                await publication.wait_for_subscription()
        shown = {ATTRIBUTE_TRANSCRIPTION_TRACK_ID: track.sid, ATTRIBUTE_TRANSCRIPTION_FINAL: "true"}
        await room.local_participant.send_text(text, topic=TOPIC_TRANSCRIPTION, attributes=shown)
        async for piece in as_stream(sound):
            await source.capture_frame(piece)
        await source.wait_for_playout()
        await asyncio.sleep(TAIL_SECONDS)
    finally:
        await source.aclose()
