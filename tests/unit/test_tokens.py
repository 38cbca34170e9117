"""Tokens have the minimal grants for a call, and equal those that LiveKit's own library makes."""

import jwt
import pytest
from livekit import api

from orchestrator.livekit.tokens import TokenMinter

SECRET = "s" * 40


@pytest.fixture
def minter() -> TokenMinter:
    return TokenMinter(
        "key", SECRET, agent_name="voice-agent", agent_seconds=3000, empty_seconds=100, departure_seconds=70
    )


def claims(token: str) -> dict[str, object]:
    return jwt.decode(token, SECRET, algorithms=["HS256"])


def test_an_agent_token_equals_the_one_made_by_livekits_library(minter: TokenMinter) -> None:
    ours, theirs = claims(minter.for_agent("room_1")), claims(minter._agent_token("room_1"))
    assert {**ours, "nbf": 0, "exp": 0} == {**theirs, "nbf": 0, "exp": 0}
    assert ours["exp"] - ours["nbf"] == 3000, "valid for a takeover at the end of the longest call"  # type: ignore[operator]
    assert ours["kind"] == "agent"
    assert ours["attributes"] == {"lk.agent.state": "initializing", "lk.agent_name": "voice-agent"}
    assert ours["video"] == {
        "roomJoin": True, "room": "room_1", "canPublish": True, "canSubscribe": True, "canPublishData": True,
        "canUpdateOwnMetadata": True,
    }  # fmt: skip
    verified = api.TokenVerifier("key", SECRET).verify(minter.for_agent("room_1"))
    assert verified.identity == "agent-room_1"


def test_every_token_sets_the_timeouts_of_the_room(minter: TokenMinter) -> None:
    for token in (minter.for_agent("room_1"), minter.for_user("room_1", "user-1")):
        assert claims(token)["roomConfig"] == {"emptyTimeout": 100, "departureTimeout": 70}


def test_two_rooms_do_not_share_a_token(minter: TokenMinter) -> None:
    rooms = [claims(minter.for_agent(room))["video"]["room"] for room in ("a", "b")]  # type: ignore[index]
    assert rooms == ["a", "b"]


def test_a_user_may_speak_and_no_more(minter: TokenMinter) -> None:
    found = claims(minter.for_user("room_1", "user-1", name="Ada", metadata="m", attributes={"a": "b"}))
    assert found["video"]["canPublishSources"] == ["microphone"]  # type: ignore[index]
    assert not {"roomAdmin", "roomList", "roomCreate", "agent", "hidden"} & set(found["video"])  # type: ignore[arg-type]
    assert (found["sub"], found["name"], found["metadata"], found["attributes"]) == ("user-1", "Ada", "m", {"a": "b"})
    assert "kind" not in found or found["kind"] == "standard"
