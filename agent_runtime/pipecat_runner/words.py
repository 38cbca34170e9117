"""Hears a bot's pipeline: what is said becomes turns and LiveKit's transcriptions, what it does becomes its state."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from livekit import rtc
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    LLMContextFrame,
    StartFrame,
    TranscriptionFrame,
    TTSTextFrame,
    UserStartedSpeakingFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.processors.aggregators.llm_response_universal import LLMAssistantAggregator
from pipecat.processors.frame_processor import FrameDirection
from pipecat.transports.base_output import BaseOutputTransport

from .room import Room, Send

log = logging.getLogger("agent.pipecat")

_STATES: dict[type[Frame], str] = {
    UserStartedSpeakingFrame: "listening",
    LLMContextFrame: "thinking",
    BotStartedSpeakingFrame: "speaking",
    BotStoppedSpeakingFrame: "listening",
}
_HEARD = (*_STATES, StartFrame, EndFrame, CancelFrame, TranscriptionFrame, TTSTextFrame)
#: Frames that are remembered, because each is seen at every step of its way.
_SEEN = 1000


class Words:
    """What was said in the call. One for all pipelines of the bot."""

    def __init__(self, send: Send, room: Room) -> None:
        self._send, self._room = send, room
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._spoken = ""
        self._audible = False
        self._state = ""
        self._segments = 0
        self._stream: rtc.TextStreamWriter | None = None
        self._to_room: asyncio.Queue[Callable[[rtc.Room], Awaitable[None]]] = asyncio.Queue()
        self._telling = asyncio.create_task(self._tell_room())

    def hear(self, pushed: FramePushed) -> None:
        """Take one step of a frame through a pipeline."""
        frame = pushed.frame
        if not isinstance(frame, _HEARD):
            return
        out = isinstance(pushed.source, BaseOutputTransport)
        # A bot's words are spoken, and a pipeline has started, when they are through the transport's output.
        if isinstance(frame, TTSTextFrame | StartFrame) and not out:
            return
        # After a turn its context goes on to the end of the pipeline, where no model is.
        after = isinstance(frame, LLMContextFrame) and isinstance(pushed.source, LLMAssistantAggregator)
        if self._is_new(frame) and not (after and pushed.direction == FrameDirection.DOWNSTREAM):
            self._take(frame)

    def _is_new(self, frame: Frame) -> bool:
        new = frame.id not in self._seen and getattr(frame, "broadcast_sibling_id", None) not in self._seen
        self._seen[frame.id] = None
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)
        return new

    def _take(self, frame: Frame) -> None:
        match frame:
            case TTSTextFrame():
                self._speak(frame)
            case TranscriptionFrame():
                self._end_of_words()
                self._user_said(frame)
            case StartFrame():
                self._set_state("listening")
            case BotStartedSpeakingFrame() if not self._audible:
                self._audible = True
                self._send("audible")
            case BotStoppedSpeakingFrame() | EndFrame() | CancelFrame():
                self._end_of_words()
        if state := _STATES.get(type(frame)):
            self._set_state(state)

    def _user_said(self, frame: TranscriptionFrame) -> None:
        if text := frame.text.strip():
            # At once, in pieces if the recogniser makes pieces: an agent that dies has told all it heard.
            self._send("turn", role="user", text=text)
            self._segments += 1
            self._to_room.put_nowait(_show_user(self._room, text, f"user-{self._segments}"))

    def _speak(self, frame: TTSTextFrame) -> None:
        text = frame.text
        if self._spoken and not frame.includes_inter_frame_spaces and not self._spoken[-1].isspace():
            text = f" {text}"
        if not self._spoken:
            self._segments += 1
        self._spoken += text
        segment = f"agent-{self._segments}"

        async def show(room: rtc.Room) -> None:
            if not self._stream:
                self._stream = await _stream(room, room.local_participant, segment)
            await self._stream.write(text)

        self._to_room.put_nowait(show)

    def _end_of_words(self) -> None:
        if text := self._spoken.strip():
            self._send("turn", role="agent", text=text)
        if self._spoken:
            self._spoken = ""
            self._to_room.put_nowait(self._close_stream)

    async def _close_stream(self, _: rtc.Room) -> None:
        if stream := self._stream:
            self._stream = None
            await stream.aclose(attributes={"lk.transcription_final": "true"})

    def _set_state(self, state: str) -> None:
        if state != self._state:
            self._state = state

            async def publish(room: rtc.Room) -> None:
                await room.local_participant.set_attributes({"lk.agent.state": state})

            self._to_room.put_nowait(publish)

    async def _tell_room(self) -> None:
        """Send to the room, in order; without waiting for it, the bot goes on."""
        while True:
            tell = await self._to_room.get()
            try:
                if self._room.rtc and self._room.joined:
                    await tell(self._room.rtc)
            except Exception as failure:
                log.warning("not shown in the room: %s", failure)


class Hearing(BaseObserver):  # type: ignore[misc] # Pipecat is not installed where types are checked
    """One pipeline's observer."""

    def __init__(self, words: Words) -> None:
        super().__init__()
        self._words = words

    async def on_push_frame(self, data: FramePushed) -> None:
        """Take one step of a frame."""
        self._words.hear(data)


def _show_user(watched: Room, text: str, segment: str) -> Callable[[rtc.Room], Awaitable[None]]:
    async def show(room: rtc.Room) -> None:
        if user := watched.user:
            stream = await _stream(room, user, segment)
            await stream.write(text)
            await stream.aclose(attributes={"lk.transcription_final": "true"})

    return show


async def _stream(room: rtc.Room, speaker: Any, segment: str) -> rtc.TextStreamWriter:
    """Open a stream with a speaker's words, as LiveKit's clients show them."""
    microphone = rtc.TrackSource.SOURCE_MICROPHONE
    tracks = [one.sid for one in speaker.track_publications.values() if one.source == microphone]
    attributes = {"lk.segment_id": segment, "lk.transcription_final": "false"}
    if tracks:
        attributes["lk.transcribed_track_id"] = tracks[0]
    return await room.local_participant.stream_text(
        topic="lk.transcription", attributes=attributes, sender_identity=speaker.identity
    )
