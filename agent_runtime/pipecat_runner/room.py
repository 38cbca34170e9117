"""Watches the room that the bot's transport joins, without joining it."""

import logging
from collections.abc import Callable
from typing import Any

from livekit import rtc

log = logging.getLogger("agent.pipecat")

#: Kinds of participants that are people; all others are machines.
_PEOPLE = frozenset({"STANDARD", "SIP", "CONNECTOR"})
_LOST = frozenset({"CONNECTION_TIMEOUT", "MEDIA_FAILURE", "SIGNAL_CLOSE", "STATE_MISMATCH"})
_ENDED = frozenset({"ROOM_DELETED", "ROOM_CLOSED", "PARTICIPANT_REMOVED"})
#: Largest data stream of a caller, unpacked.
STREAM_BYTES = 5 * 2**20

Send = Callable[..., None]


class Room:
    """The session's room: tells the node that the agent is in it, and whether the user is."""

    def __init__(self, send: Send, gone: Callable[[str, bool], None]) -> None:
        self._send, self._gone = send, gone
        self.rtc: rtc.Room | None = None
        self.joined = False
        #: Why the last attempt to join failed.
        self.refusal = ""
        self._user = (False, False)

    @property
    def user(self) -> rtc.RemoteParticipant | None:
        """The user, while in the room and on the line. A phone that still rings does not count."""
        everyone = self.rtc.remote_participants.values() if self.rtc else ()
        return next(filter(_on_the_line, everyone), None)

    def watch(self, token: str) -> None:
        """Watch the room that is joined with this token, whoever makes it."""
        connect = rtc.Room.connect

        async def watched(room: rtc.Room, url: str, given: str, options: Any = None) -> None:
            if given != token:
                return await connect(room, url, given, *([options] if options else []))
            if self.rtc is not room:
                self._follow(room)
            try:
                await connect(room, url, given, _bounded(options or rtc.RoomOptions()))
            except Exception as failure:
                self.refusal = str(failure)
                raise
            self.joined = True
            self._send("joined")
            self._update()

        rtc.Room.connect = watched  # type: ignore[method-assign,assignment]

    def _follow(self, room: rtc.Room) -> None:
        self.rtc = room
        for event in ("participant_connected", "participant_disconnected", "participant_attributes_changed"):
            room.on(event, self._update)
        room.on("disconnected", self._on_disconnected)

    def _update(self, *event: object) -> None:
        present = self.user is not None
        lost = not present and any(
            _name(rtc.DisconnectReason, who.disconnect_reason) in _LOST
            for who in event
            if isinstance(who, rtc.RemoteParticipant) and _kind(who) in _PEOPLE
        )
        if present != self._user[0] or (lost and not self._user[1]):
            self._user = (present, lost)
            self._send("user", present=present, lost=lost)

    def _on_disconnected(self, reason: Any = None) -> None:
        name = _name(rtc.DisconnectReason, reason)
        if name != "CLIENT_INITIATED":
            self._gone(f"the room is gone ({name})", name in _ENDED)


def _bounded(options: Any) -> Any:
    if hasattr(options, "data_stream") and options.data_stream is None:
        options.data_stream = rtc.DataStreamOptions(max_payload_byte_length=STREAM_BYTES)
    return options


def _name(names: Any, number: Any) -> str:
    try:
        return str(names.Name(number))
    except (TypeError, ValueError):
        return ""


def _kind(participant: rtc.RemoteParticipant) -> str:
    return _name(rtc.ParticipantKind, participant.kind).removeprefix("PARTICIPANT_KIND_")


def _on_the_line(participant: rtc.RemoteParticipant) -> bool:
    kind = _kind(participant)
    status = participant.attributes.get("sip.callStatus", "").lower()
    return kind in _PEOPLE and (kind != "SIP" or status in {"", "active"})
