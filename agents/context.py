"""What an agent's entrypoint is given."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from livekit import rtc

#: Participants that are people (or phone lines), not machinery.
USER_KINDS = frozenset({rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD, rtc.ParticipantKind.PARTICIPANT_KIND_SIP})
STATE_ATTRIBUTE = "lk.agent.state"


class AgentContext:
    """One session, from inside its agent. `room` is connected when the entrypoint gets it; the token is for it only.

    Made before the room is connected: a user may come and go while the agent is still connecting.
    """

    def __init__(
        self, *, session_id: str, user_id: str, metadata: Mapping[str, Any], room: rtc.Room, url: str, token: str
    ) -> None:
        self.session_id = session_id
        self.user_id = user_id
        self.metadata = metadata
        self.room = room
        self.url, self.token = url, token
        self.log = logging.LoggerAdapter(logging.getLogger("agent"), {"session_id": session_id})
        #: Why the agent leaves, once that is decided.
        self.leaving: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self.user_seen = asyncio.Event()
        self.user_present = asyncio.Event()
        self.user_gone = asyncio.Event()
        room.on("participant_connected", self.look)
        room.on("participant_disconnected", self.look)
        room.on("disconnected", self._on_disconnected)
        self.look()

    @property
    def user(self) -> rtc.RemoteParticipant | None:
        """The user, while in the room."""
        users = (p for p in self.room.remote_participants.values() if p.kind in USER_KINDS)
        return next(users, None)

    async def wait_for_user(self) -> rtc.RemoteParticipant:
        """Return the user, as soon as they are in the room."""
        while (user := self.user) is None:
            await self.user_present.wait()
        return user

    async def set_state(self, state: str) -> None:
        """Publish `lk.agent.state` (initializing, listening, thinking, speaking): LiveKit's clients wait for it."""
        await self.room.local_participant.set_attributes({STATE_ATTRIBUTE: state})

    def leave(self, reason: str, *, failed: bool = False) -> None:
        """End the session; the first reason counts."""
        if not self.leaving.done():
            self.leaving.set_result(("error" if failed else "ended", reason))

    def look(self, *about: object) -> None:
        """Look whether the user is in the room; called at every coming and going."""
        present = self.user is not None
        if present or (about and isinstance(about[0], rtc.RemoteParticipant) and about[0].kind in USER_KINDS):
            self.user_seen.set()
        (self.user_present.set if present else self.user_present.clear)()
        (self.user_gone.clear if present else self.user_gone.set)()

    def _on_disconnected(self, reason: rtc.DisconnectReason.ValueType) -> None:
        self.leave(f"room closed ({rtc.DisconnectReason.Name(reason)})")
