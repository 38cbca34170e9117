"""Makes rooms for users where LiveKit makes none for whoever joins first (`room.auto_create: false`).

Failure cases: LiveKit does not answer → what was known of it counts.
"""

import asyncio
import logging

from orchestrator.errors import LiveKitUnavailable
from orchestrator.livekit.rooms import Rooms

log = logging.getLogger("orchestrator.rooms")

#: Seconds between two looks at how LiveKit is set up, and after one that was not answered.
LOOK_SECONDS, AGAIN_SECONDS = 60.0, 3.0


class RoomMaker:
    """Knows whether LiveKit makes rooms, and makes them where it does not. `watch` it as a background task."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.by_itself = True  #: LiveKit makes a room for whoever joins first

    async def watch(self) -> None:
        """Keep what is known of LiveKit current, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception as failure:
                if not isinstance(failure, LiveKitUnavailable):
                    log.exception("how LiveKit makes rooms is not known, and is looked at again")
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Ask LiveKit whether it makes rooms. Raises `LiveKitUnavailable`."""
        before, self.by_itself = self.by_itself, await self._rooms.makes_rooms()
        if before and not self.by_itself:
            log.info("LiveKit makes no rooms by itself (room.auto_create: false): those of sessions are made here")

    async def ensure(self, room: str) -> None:
        """Have a room exist before its user joins. Raises `LiveKitUnavailable`."""
        if not self.by_itself:
            await self._rooms.create(room)
