"""The session as an agent's entrypoint sees it: a call whose room is joined by this process."""

from collections.abc import Mapping, Sequence
from typing import Any

from livekit import rtc

from agent_runtime.call import Call, Turn
from orchestrator.livekit import presence
from orchestrator.reasons import because

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


class AgentContext(Call):
    """One session, from inside its agent. `room` is connected when the entrypoint gets it; the token is for it only.

    It is created before the room is connected, because a user may come and go while the agent is connecting.
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
        super().__init__(
            session_id=session_id, user_id=user_id, metadata=metadata, url=url, token=token,
            takeovers=takeovers, conversation=conversation,
        )  # fmt: skip
        self.room = room
        self.room_name = room_name  #: known before the room is connected
        self.api_token = api_token  #: for LiveKit's API, with the admin right of this room
        self.job = job  #: LiveKit's job in base64, if LiveKit has dispatched the session
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

    def update_presence(self, *event: object) -> None:
        """Update whether the user is there, after a participant has come, gone, answered or hung up."""
        before, present = self.user_present.is_set(), self.user is not None
        people = (each for each in event if isinstance(each, rtc.RemoteParticipant) and _kind(each))
        # A phone that was not answered counts as a user who has not joined.
        user = next((each for each in people if before or _on_the_line(each)), None)
        lost = False
        if user and not present:
            reason = user.disconnect_reason
            lost = reason in _CONNECTION_LOST
            self.log.info("the user is gone (%s)", rtc.DisconnectReason.Name(reason) if reason else "no reason given")
        self.update_user(present=present, lost=lost, seen=present or user is not None)

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
