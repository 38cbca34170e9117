"""What an agent's entrypoint is given."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from livekit import rtc

from orchestrator.livekit import presence

STATE_ATTRIBUTE = "lk.agent.state"


#: Why a room was closed to an agent, when that is an end and not a lost connection.
_MEANT = frozenset(
    {
        rtc.DisconnectReason.CLIENT_INITIATED,
        rtc.DisconnectReason.ROOM_DELETED,
        rtc.DisconnectReason.ROOM_CLOSED,
        rtc.DisconnectReason.PARTICIPANT_REMOVED,
    }
)
#: Why a user is not in the room any more, when LiveKit has waited for them already, some 20 s, before it says so.
_LOST = frozenset(
    {
        rtc.DisconnectReason.CONNECTION_TIMEOUT,
        rtc.DisconnectReason.MEDIA_FAILURE,
        rtc.DisconnectReason.SIGNAL_CLOSE,
        rtc.DisconnectReason.STATE_MISMATCH,
    }
)
#: Longest text of one turn that is kept, in characters.
TURN_CHARACTERS = 2000

Goodbye = Callable[[], Awaitable[None]]
#: How a session goes on without its agent: it is over as it should be, it failed, another agent is to take over, one of
#: another node is (where there is none, it is over), or one has taken over already.
Outcome = Literal["ended", "error", "lost", "stopped", "replaced"]


@dataclass(frozen=True, slots=True)
class Turn:
    """Something that was said in the call."""

    role: Literal["user", "agent"]
    text: str
    at: float  #: Unix seconds


class AgentContext:
    """One session, from inside its agent. `room` is connected when the entrypoint gets it; the token is for it only.

    Made before the room is connected: a user may come and go while the agent is still connecting. When `takeovers` is
    not 0, this agent replaces one that died in the call: `conversation` is what was said until then.
    """

    def __init__(
        self,
        *,
        session_id: str,
        user_id: str,
        metadata: Mapping[str, Any],
        room: rtc.Room,
        url: str,
        token: str,
        takeovers: int = 0,
        conversation: Sequence[Turn] = (),
    ) -> None:
        self.session_id = session_id
        self.user_id = user_id
        self.metadata = metadata
        self.room = room
        self.url, self.token = url, token
        self.takeovers = takeovers
        self.conversation = list(conversation)
        self.log = logging.LoggerAdapter(logging.getLogger("agent"), {"session_id": session_id})
        #: Why the agent leaves, once that is decided.
        self.leaving: asyncio.Future[tuple[Outcome, str]] = asyncio.get_running_loop().create_future()
        self.user_seen = asyncio.Event()
        self.user_present = asyncio.Event()
        #: Whether the user's connection was lost, when the user is not there: they did not leave.
        self.user_lost = False
        #: Set at every change of the user's presence; whoever acts on it clears it.
        self.presence_changed = asyncio.Event()
        #: Set when the user can hear this agent for the first time.
        self.audible = asyncio.Event()
        #: Turns that are not kept in Redis yet.
        self.unkept: asyncio.Queue[Turn] = asyncio.Queue()
        self.goodbyes: list[Goodbye] = []
        room.on("participant_connected", self.look)
        room.on("participant_disconnected", self.look)
        # guard: attributes-changed
        room.on("participant_attributes_changed", self.look)
        room.on("disconnected", self._on_disconnected)
        self.look()

    @property
    def user(self) -> rtc.RemoteParticipant | None:
        """The user, while in the room and on the line: a phone that rings is nobody yet."""
        return next(filter(_on_the_line, self.room.remote_participants.values()), None)

    async def wait_for_user(self) -> rtc.RemoteParticipant:
        """Return the user, as soon as they are in the room."""
        while (user := self.user) is None:
            await self.user_present.wait()
        return user

    async def set_state(self, state: str) -> None:
        """Publish `lk.agent.state` (initializing, listening, thinking, speaking): LiveKit's clients wait for it."""
        await self.room.local_participant.set_attributes({STATE_ATTRIBUTE: state})

    def remember(self, role: Literal["user", "agent"], text: str) -> None:
        """Keep what was said, so that an agent which has to take over knows it."""
        turn = Turn(role, text[:TURN_CHARACTERS], time.time())
        self.conversation.append(turn)
        self.unkept.put_nowait(turn)

    def mark_audible(self) -> None:
        """Say that the user hears this agent: the time to first audio is measured by it."""
        self.audible.set()

    def on_goodbye(self, say: Goodbye) -> None:
        """Have `say` called when the node must stop: a few seconds are left to say so to the user."""
        self.goodbyes.append(say)

    def leave(self, reason: str, *, failed: bool = False) -> None:
        """End the session; the first reason counts."""
        self._leave("error" if failed else "ended", reason)

    def hand_over(self, cause: str) -> None:
        """Leave the session to another agent: this one cannot go on."""
        self._leave("lost", cause)

    def stop(self, reason: str) -> None:
        """Leave because this process must go: an agent of another node goes on, or the session is over."""
        self._leave("stopped", reason)

    def give_up(self, reason: str) -> None:
        """Leave a session that is another agent's already."""
        self._leave("replaced", reason)

    def _leave(self, outcome: Outcome, reason: str) -> None:
        if not self.leaving.done():
            self.leaving.set_result((outcome, reason))

    def look(self, *about: object) -> None:
        """Look whether the user is there; called when somebody comes, goes, answers or hangs up."""
        before, present = self.user_present.is_set(), self.user is not None
        people = (each for each in about if isinstance(each, rtc.RemoteParticipant) and _kind(each))
        # One that was never on the line, a phone that rang in vain, has not been here.
        user = next((each for each in people if before or _on_the_line(each)), None)
        if present or user:
            self.user_seen.set()
        if present:
            self.user_lost = False
        elif user:
            reason = user.disconnect_reason
            self.user_lost = reason in _LOST
            self.log.info("the user is gone (%s)", rtc.DisconnectReason.Name(reason) if reason else "nobody says why")
        if present is not before or (user and not present):
            self.presence_changed.set()
        (self.user_present.set if present else self.user_present.clear)()

    def _on_disconnected(self, reason: rtc.DisconnectReason.ValueType) -> None:
        name = rtc.DisconnectReason.Name(reason)
        if reason == rtc.DisconnectReason.DUPLICATE_IDENTITY:
            self.give_up("another agent has taken over")
        elif reason in _MEANT:
            self.leave(f"room closed ({name})")
        else:
            self.hand_over(f"room_lost: {name}")


def _kind(who: rtc.RemoteParticipant) -> str | None:
    """Return the kind of a participant that is a person, None of one that is not."""
    name = rtc.ParticipantKind.Name(who.kind).removeprefix("PARTICIPANT_KIND_")
    return name if name in presence.USER_KINDS else None


def _on_the_line(who: rtc.RemoteParticipant) -> bool:
    return presence.answered(_kind(who) or "", who.attributes)
