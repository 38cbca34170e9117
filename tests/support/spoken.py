"""Calls with real speech in both directions, whose answers are read.

LiveKit's agents send what they say as text while they say it. On a busy machine sound has gaps, and a recogniser makes
other words of it; the text has none. So a test reads the text, and checks that there was sound.
"""

import asyncio
import contextlib
import re
import time
from typing import Any

from livekit import rtc

from orchestrator.call import caller
from orchestrator.call.caller import CallError

#: What the agent says when it is asked for the time.
A_TIME = r"\bit is \w+|\bits \w+|morning|afternoon|evening"


def words(text: str) -> str:
    """Return speech as comparable words."""
    return " ".join(re.findall(r"[a-z]+", text.lower()))


class Call(caller.Call):
    """A call that also reads what the agent says."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._texts: asyncio.Queue[str] = asyncio.Queue()
        self._readers: set[asyncio.Task[None]] = set()
        self._room.register_text_stream_handler("lk.transcription", self._caption)

    def _caption(self, reader: rtc.TextStreamReader, identity: str) -> None:
        if identity.startswith("agent-"):  # what the user says is sent in the user's name
            task = asyncio.create_task(self._read(reader))
            self._readers.add(task)
            task.add_done_callback(self._readers.discard)

    async def _read(self, reader: rtc.TextStreamReader) -> None:
        if text := words(await reader.read_all()):
            self._texts.put_nowait(text)

    async def read(self) -> str:
        """Return the words of the next thing that the agent says, once it is said. Raises `CallError`."""
        return await self._next(self._texts, lambda text: asyncio.wait((text,), timeout=1))

    async def state(self, wanted: str) -> None:
        """Wait until the agent publishes a state. Raises `CallError`."""
        seen = asyncio.Event()

        def look(*_: object) -> None:
            agents = self._room.remote_participants.values()
            if any(agent.attributes.get("lk.agent.state") == wanted for agent in agents):
                seen.set()

        self._room.on("participant_attributes_changed", look)
        try:
            look()
            async with self._bound(f"the agent is not {wanted}"):
                await seen.wait()
        finally:
            self._room.off("participant_attributes_changed", look)

    async def ask(self, sentence: str, wanted: str) -> re.Match[str]:
        """Say a sentence until the answer matches, three times at most, because recognition is not perfect.

        Returns the match. The user must have heard sound with the answer.
        """
        answers, began = [], time.monotonic()
        for _ in range(3):
            await self.state("listening")  # a sentence that interrupts an answer would be answered by its beginning
            with contextlib.suppress(asyncio.QueueEmpty):
                while True:
                    self._texts.get_nowait()  # answers to what was asked before
            await self.say(sentence)
            try:
                answers.append(await self.read())
            except CallError as failure:
                if self._gone.is_set():
                    raise
                answers.append(str(failure))
            if found := re.search(wanted, answers[-1]):
                assert self.last_sound > began, "the answer was audible"
                return found
        raise AssertionError(f"asked {sentence!r}, was answered {answers}")
