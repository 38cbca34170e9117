"""The session as an agent's entrypoint sees it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from livekit import rtc

from orchestrator.livekit import presence
from orchestrator.reasons import Reason, because, words

STATE_ATTRIBUTE = "lk.agent.state"


#: Reasons of a disconnect that mean the end of the session, not a lost connection.
_INTENDED = frozenset(
    {
        rtc.DisconnectReason.CLIENT_INITIATED,
        rtc.DisconnectReason.ROOM_DELETED,
        rtc.DisconnectReason.ROOM_CLOSED,
        rtc.DisconnectReason.PARTICIPANT_REMOVED,
    }
)
#: Reasons of a user's disconnect that LiveKit reports only after some 20 s of waiting for them.
_CONNECTION_LOST = frozenset(
    {
        rtc.DisconnectReason.CONNECTION_TIMEOUT,
        rtc.DisconnectReason.MEDIA_FAILURE,
        rtc.DisconnectReason.SIGNAL_CLOSE,
        rtc.DisconnectReason.STATE_MISMATCH,
    }
)
#: Characters of one turn that are kept.
TURN_CHARACTERS = 2000

Goodbye = Callable[[], Awaitable[None]]
#: What happens to the session when its agent leaves: it has ended normally, it has failed, another agent is to take
#: over, an agent of another node is (or it ends, if there is none), or another agent has taken over already.
Outcome = Literal["ended", "error", "lost", "stopped", "replaced"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing that was said in the call."""

    role: Literal["user", "agent"]
    text: str
    at: float  #: Unix seconds


class AgentContext:
    """One session, from inside its agent. `room` is connected when the entrypoint gets it; the token is for it only.

    It is created before the room is connected, because a user may come and go while the agent is connecting. If
    `takeovers` is not 0, this agent replaces one that died in the call, and `conversation` is what was said until then.
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
        room_name: str = "",
        api_token: str = "",
        job: str = "",
    ) -> None:
        self.session_id = session_id
        self.user_id = user_id
        self.metadata = metadata
        self.room = room
        self.url, self.token = url, token
        self.takeovers = takeovers
        self.conversation = list(conversation)
        self.room_name = room_name  #: known before the room is connected
        self.api_token = api_token  #: for LiveKit's API, with the admin right of this room
        self.job = job  #: LiveKit's job in base64, if LiveKit has dispatched the session
        self.log = logging.LoggerAdapter(logging.getLogger("agent"), {"session_id": session_id})
        #: How and why the agent leaves, once that is decided.
        self.leaving: asyncio.Future[tuple[Outcome, Reason]] = asyncio.get_running_loop().create_future()
        self.user_seen = asyncio.Event()
        self.user_present = asyncio.Event()
        #: Whether an absent user has lost the connection rather than left.
        self.user_lost = False
        #: Set at every change of the user's presence; its reader clears it.
        self.presence_changed = asyncio.Event()
        #: Set when the user can hear this agent for the first time.
        self.audible = asyncio.Event()
        #: Turns that are not in Redis yet.
        self.unsaved: asyncio.Queue[Turn] = asyncio.Queue()
        self.goodbyes: list[Goodbye] = []
        room.on("participant_connected", self.update_presence)
        room.on("participant_disconnected", self.update_presence)
        # guard: attributes-changed
        room.on("participant_attributes_changed", self.update_presence)
        room.on("disconnected", self._on_disconnected)
        self.update_presence()

    @property
    def user(self) -> rtc.RemoteParticipant | None:
        """The user, while in the room and on the line. A phone that still rings does not count."""
        return next(filter(_on_the_line, self.room.remote_participants.values()), None)

    async def wait_for_user(self) -> rtc.RemoteParticipant:
        """Return the user as soon as they are in the room."""
        while (user := self.user) is None:
            await self.user_present.wait()
        return user

    async def set_state(self, state: str) -> None:
        """Publish `lk.agent.state` (initializing, listening, thinking, speaking): LiveKit's clients wait for it."""
        await self.room.local_participant.set_attributes({STATE_ATTRIBUTE: state})

    def remember(self, role: Literal["user", "agent"], text: str) -> None:
        """Save what was said for an agent that may have to take over."""
        turn = Turn(role, text[:TURN_CHARACTERS], time.time())
        self.conversation.append(turn)
        self.unsaved.put_nowait(turn)

    def mark_audible(self) -> None:
        """Report that the user hears this agent now: the time to first audio ends here."""
        self.audible.set()

    def on_goodbye(self, say: Goodbye) -> None:
        """Call `say` when the node must stop. It has a few seconds to tell the user."""
        self.goodbyes.append(say)

    def leave(self, reason: str | Reason, *, failed: bool = False) -> None:
        """End the session; the first reason counts. Words of your own are the operator's: callers do not read them."""
        self._leave("error" if failed else "ended", reason)

    def hand_over(self, cause: str | Reason) -> None:
        """Leave the session to another agent, because this one cannot continue."""
        self._leave("lost", cause)

    def stop(self, reason: Reason) -> None:
        """Leave because this process must stop: an agent of another node takes over, or the session ends."""
        self._leave("stopped", reason)

    def give_up(self, reason: Reason) -> None:
        """Leave a session that another agent has taken over already."""
        self._leave("replaced", reason)

    def _leave(self, outcome: Outcome, reason: str | Reason) -> None:
        if not self.leaving.done():
            self.leaving.set_result((outcome, words(reason) if isinstance(reason, str) else reason))

    def update_presence(self, *event: object) -> None:
        """Update whether the user is there, after a participant has come, gone, answered or hung up."""
        before, present = self.user_present.is_set(), self.user is not None
        people = (each for each in event if isinstance(each, rtc.RemoteParticipant) and _kind(each))
        # A phone that was not answered counts as a user who has not joined.
        user = next((each for each in people if before or _on_the_line(each)), None)
        if present or user:
            self.user_seen.set()
        if present:
            self.user_lost = False
        elif user:
            reason = user.disconnect_reason
            self.user_lost = reason in _CONNECTION_LOST
            self.log.info("the user is gone (%s)", rtc.DisconnectReason.Name(reason) if reason else "no reason given")
        if present is not before or (user and not present):
            self.presence_changed.set()
        (self.user_present.set if present else self.user_present.clear)()

    def _on_disconnected(self, reason: rtc.DisconnectReason.ValueType) -> None:
        name = rtc.DisconnectReason.Name(reason)
        if reason == rtc.DisconnectReason.DUPLICATE_IDENTITY:
            self.give_up(because("taken_over"))
        elif reason in _INTENDED:
            self.leave(because("room_closed", disconnect=name))
        else:
            self.hand_over(because("room_lost", disconnect=name))


def _kind(participant: rtc.RemoteParticipant) -> str | None:
    """Return the kind of a participant that is a person; None for a machine."""
    name = rtc.ParticipantKind.Name(participant.kind).removeprefix("PARTICIPANT_KIND_")
    return name if name in presence.USER_KINDS else None


def _on_the_line(participant: rtc.RemoteParticipant) -> bool:
    return presence.answered(_kind(participant) or "", participant.attributes)
