"""Creates rooms for users where LiveKit does not (`room.auto_create: false`).

Failure cases: LiveKit does not answer → its last known setting is used.
"""

import asyncio
import logging

from orchestrator.errors import LiveKitUnavailable
from orchestrator.livekit.rooms import Rooms

log = logging.getLogger("orchestrator.rooms")

#: Seconds between two checks of LiveKit's setting, and after a check that failed.
CHECK_SECONDS, RETRY_SECONDS = 60.0, 3.0


class RoomCreator:
    """Knows whether LiveKit creates rooms, and creates them where it does not. `watch` it as a background task."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.auto_create = True  #: LiveKit creates a room when its first participant joins

    async def watch(self) -> None:
        """Check LiveKit's setting again and again, until cancelled."""
        while True:
            try:
                await self.check()
            except Exception as failure:
                if not isinstance(failure, LiveKitUnavailable):
                    log.exception("checking whether LiveKit creates rooms failed; it is checked again")
                await asyncio.sleep(RETRY_SECONDS)
            else:
                await asyncio.sleep(CHECK_SECONDS)

    async def check(self) -> None:
        """Ask LiveKit whether it creates rooms. Raises `LiveKitUnavailable`."""
        before, self.auto_create = self.auto_create, await self._rooms.creates_rooms()
        if before and not self.auto_create:
            log.info("LiveKit does not create rooms (room.auto_create: false): the orchestrator creates them")

    async def ensure(self, room: str) -> None:
        """Make sure that a room exists before its user joins. Raises `LiveKitUnavailable`."""
        if not self.auto_create:
            await self._rooms.create(room)
