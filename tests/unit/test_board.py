"""The status page's data: only changes are sent, and positions in a log are validated."""

import re

import pytest

from orchestrator.api.log_stream import POSITION_PATTERN, parse_position
from orchestrator.api.status_view import changes

A, B = "prewarm_" + "a" * 32, "session_" + "b" * 32


def session(name: str, **fields: str) -> dict[str, str]:
    return {"sessionId": name, "status": "ready"} | fields


def test_only_differences_are_sent() -> None:
    before = {"at": 1.0, "health": {"status": "ok"}, "agents": [], "sessions": [session("one"), session("two")]}
    assert changes(before, before) == {"at": 1.0}  # the page sets its clock by it
    assert changes(before, before | {"at": 2.0}) == {"at": 2.0}
    after = before | {"at": 2.0, "sessions": [session("three"), session("two", status="ended")]}
    assert changes(before, after) == {
        "at": 2.0,
        "sessions": [session("three"), session("two", status="ended")],
        "gone": ["one"],
    }
    assert changes(before, before | {"at": 2.0, "agents": [1]}) == {"at": 2.0, "agents": [1]}


def test_a_position_contains_the_offset_of_each_agent() -> None:
    for text in ("", f"{A}:12", f"{A}:12,{B}:0"):
        assert re.match(POSITION_PATTERN, text)
    assert parse_position("") == {}
    assert parse_position(f"{A}:12") == {A: 12}
    assert parse_position(f"{A}:12,{B}:0") == {A: 12, B: 0}


@pytest.mark.parametrize("text", [":", ",", f"{A}", f"{A}:", f"{A}:x", f"{A}:1,", f",{A}:1", f"{A}:-1", f"{A}:1{B}:2"])
def test_an_invalid_position_is_refused(text: str) -> None:
    assert re.match(POSITION_PATTERN, text) is None
