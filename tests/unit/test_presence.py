"""Which participant counts as the user, and from when: in the table, the agent and the orchestrator."""

from types import SimpleNamespace
from typing import Any

import pytest
from livekit import api, rtc
from livekit.protocol.models import ParticipantInfo

from agent_runtime.context import AgentContext
from orchestrator.livekit import presence
from orchestrator.livekit import rooms as rooms_module
from orchestrator.livekit.rooms import Rooms

STATUSES = [
    ({}, True), ({"sip.callStatus": ""}, True), ({"sip.callStatus": "active"}, True),
    ({"sip.callStatus": "ringing"}, False), ({"sip.callStatus": "dialing"}, False),
    ({"sip.callStatus": "automation"}, False), ({"sip.callStatus": "hangup"}, False),
    ({"sip.callStatus": "something new"}, False),
]  # fmt: skip


@pytest.mark.parametrize(("attributes", "there"), STATUSES)
def test_a_phone_counts_from_its_answer_until_it_hangs_up(attributes: dict[str, str], there: bool) -> None:
    assert presence.answered("SIP", attributes) is there


@pytest.mark.parametrize("kind", ["STANDARD", "CONNECTOR"])
def test_only_a_phone_has_a_call_status(kind: str) -> None:
    assert presence.answered(kind, {"sip.callStatus": "ringing"})


@pytest.mark.parametrize("kind", ["AGENT", "EGRESS", "INGRESS", "BRIDGE", ""])
def test_machines_do_not_count_as_users(kind: str) -> None:
    assert not presence.answered(kind, {})


def test_both_enums_of_livekit_contain_every_kind() -> None:
    for kind in presence.USER_KINDS:
        assert ParticipantInfo.Kind.Value(kind) is not None
        assert rtc.ParticipantKind.Value(f"PARTICIPANT_KIND_{kind}") is not None


class Who(rtc.RemoteParticipant):
    """A participant of a room, without LiveKit."""

    def __init__(self, kind: str, **attributes: str) -> None:
        self.its_kind, self.its_attributes = kind, {f"sip.{name}": value for name, value in attributes.items()}
        self.why: Any = None

    def __del__(self) -> None:
        pass

    @property
    def kind(self) -> Any:
        return rtc.ParticipantKind.Value(f"PARTICIPANT_KIND_{self.its_kind}")

    @property
    def attributes(self) -> dict[str, str]:
        return self.its_attributes

    @property
    def disconnect_reason(self) -> Any:
        return self.why


class Room:
    """A room whose events the test emits."""

    def __init__(self) -> None:
        self.remote_participants: dict[str, Who] = {}
        self.handlers: dict[str, Any] = {}

    def on(self, event: str, handler: Any) -> None:
        self.handlers[event] = handler

    def comes(self, who: Who) -> None:
        self.remote_participants["user"] = who
        self.handlers["participant_connected"](who)

    def says(self, status: str) -> None:
        who = self.remote_participants["user"]
        who.its_attributes["sip.callStatus"] = status
        self.handlers["participant_attributes_changed"]({"sip.callStatus": status}, who)

    def goes(self, why: int | None = None) -> None:
        who = self.remote_participants.pop("user")
        who.why = why
        self.handlers["participant_disconnected"](who)


def context_of(room: Room) -> AgentContext:
    return AgentContext(
        session_id="s", user_id="u", metadata={}, room=room, url="", token="",  # type: ignore[arg-type]
    )  # fmt: skip


def told(context: AgentContext) -> tuple[bool, bool]:
    """Return whether presence has changed since the last call, and its value."""
    changed = context.presence_changed.is_set()
    context.presence_changed.clear()
    return changed, context.user_present.is_set()


async def test_an_agent_waits_until_the_phone_is_answered() -> None:
    room = Room()
    context = context_of(room)
    room.comes(Who("SIP", callStatus="dialing"))
    room.says("ringing")
    assert told(context) == (False, False), "the phone is ringing: the user is neither present nor gone"
    assert context.user is None
    room.says("active")
    assert told(context) == (True, True)
    assert await context.wait_for_user() is room.remote_participants["user"]
    room.says("hangup")
    assert told(context) == (True, False)
    room.goes(rtc.DisconnectReason.CLIENT_INITIATED)
    assert told(context) == (False, False), "the user was gone already"
    assert not context.user_lost


async def test_an_unanswered_phone_was_never_present() -> None:
    room = Room()
    context = context_of(room)
    room.comes(Who("SIP", callStatus="ringing"))
    room.goes(rtc.DisconnectReason.USER_REJECTED)
    assert told(context) == (False, False)
    assert not context.user_seen.is_set()


async def test_a_disconnected_caller_may_return() -> None:
    room = Room()
    context = context_of(room)
    room.comes(Who("SIP", callStatus="active"))
    assert told(context) == (True, True)
    room.goes(rtc.DisconnectReason.CONNECTION_TIMEOUT)
    assert told(context) == (True, False)
    assert context.user_lost
    room.comes(Who("SIP", callStatus="ringing"))
    assert told(context) == (False, False)
    room.says("active")
    assert told(context) == (True, True)
    assert not context.user_lost


async def test_a_second_phone_that_rings_changes_nothing_for_the_first() -> None:
    room = Room()
    context = context_of(room)
    room.comes(Who("SIP", callStatus="active"))
    told(context)
    second = Who("SIP", callStatus="ringing")
    room.remote_participants["second"] = second
    room.handlers["participant_connected"](second)
    del room.remote_participants["second"]
    room.handlers["participant_disconnected"](second)
    assert told(context) == (False, True)


@pytest.mark.parametrize("kind", ["STANDARD", "CONNECTOR"])
async def test_users_without_a_phone_are_present_once_in_the_room(kind: str) -> None:
    room = Room()
    context = context_of(room)
    room.comes(Who(kind))
    assert told(context) == (True, True)
    room.goes()
    assert told(context) == (True, False)


async def test_a_machine_in_the_room_is_ignored() -> None:
    room = Room()
    context = context_of(room)
    room.comes(Who("EGRESS"))
    room.goes()
    assert told(context) == (False, False)


LOOKS = [
    ("STANDARD", {}, "there"), ("CONNECTOR", {}, "there"), ("SIP", {}, "there"),
    ("SIP", {"sip.callStatus": "active"}, "there"), ("SIP", {"sip.callStatus": "ringing"}, "coming"),
    ("SIP", {"sip.callStatus": "dialing"}, "coming"), ("SIP", {"sip.callStatus": "automation"}, "coming"),
    ("SIP", {"sip.callStatus": "hangup"}, "gone"), ("EGRESS", {}, "gone"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "attributes", "expected"), LOOKS)
async def test_answers_of_livekit_use_the_same_table(
    kind: str, attributes: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = ParticipantInfo(
        identity="u", kind=ParticipantInfo.Kind.Value(kind), state=ParticipantInfo.State.ACTIVE, attributes=attributes
    )

    async def listed(_: object) -> api.ListParticipantsResponse:
        return api.ListParticipantsResponse(participants=[who])

    async with Rooms("ws://127.0.0.1:1", "key", "s" * 40) as rooms:
        monkeypatch.setattr(
            rooms, "_api", SimpleNamespace(room=SimpleNamespace(list_participants=listed), aclose=rooms._api.aclose)
        )
        assert await rooms.present("room") == (expected, False)
    assert rooms_module.presence is presence
