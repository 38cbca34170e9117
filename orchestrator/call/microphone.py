"""A microphone that is always on, as a person's is: `orchestrator.call.caller` speaks into it."""

import asyncio
import time

import numpy as np
from livekit import rtc
from numpy.typing import NDArray

from agent_runtime.offline import speech

RATE = speech.TTS_RATE
FRAME = RATE // 50  #: samples in 20 ms
#: RMS above which a frame holds speech; line noise of Opus is below 30, speech far above 500.
LOUD = 200.0


class Microphone:
    """Plays sentences, and silence between them."""

    def __init__(self) -> None:
        self.source = rtc.AudioSource(RATE, 1, queue_size_ms=100)
        #: 20 ms of sound between sentences; None = silence.
        self.background: NDArray[np.int16] | None = None
        self._queue: asyncio.Queue[tuple[NDArray[np.int16], asyncio.Future[float]]] = asyncio.Queue()
        self._running = asyncio.create_task(self._run())

    @property
    def failure(self) -> BaseException | None:
        """Why it plays nothing any more; None while it works."""
        return self._running.exception() if self._running.done() and not self._running.cancelled() else None

    async def say(self, sound: NDArray[np.int16]) -> float:
        """Play a sentence; returns the monotonic time at which its last sound left."""
        done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        await self._queue.put((sound, done))
        await asyncio.wait((done, self._running), return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise RuntimeError("the microphone has failed") from self.failure
        return done.result()

    async def close(self) -> None:
        """Switch it off."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self.source.aclose()

    async def _run(self) -> None:
        silence = np.zeros(FRAME, dtype=np.int16)
        while True:
            try:
                sound, done = self._queue.get_nowait()
            except asyncio.QueueEmpty:
                await self._play(self.background if self.background is not None else silence)
                continue
            loud = np.flatnonzero(np.abs(sound) > LOUD)
            end = int(loud[-1]) + 1 if loud.size else len(sound)
            for start in range(0, end, FRAME):
                await self._play(np.pad(sound[start : start + FRAME], (0, max(0, FRAME - (end - start))))[:FRAME])
            done.set_result(time.monotonic() + self.source.queued_duration)

    async def _play(self, samples: NDArray[np.int16]) -> None:
        # Waits while the queue is full, which paces the loop to real time.
        await self.source.capture_frame(rtc.AudioFrame(samples.tobytes(), RATE, 1, len(samples)))
