"""Warnings are codes with parameters: each is in the table, with the parameters of its sentence."""

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import reasons
from orchestrator.api import caller_view
from orchestrator.api.schemas.health import BreakerReply, HealthReply, WarningCode
from orchestrator.node.announce import found_warnings
from orchestrator.operations import sharing
from orchestrator.reasons import HealthWarning, filled, warn
from orchestrator.settings import Settings
from tests.support.documents import REPOSITORY

TABLE = reasons.table().warnings
#: The rows that the operator reads; `other` is for callers alone.
ROWS = [row for row in TABLE.values() if row.text]


def given() -> Iterator[tuple[str, set[str], bool]]:
    """Yield each warning in the sources: its code, its parameters, and whether the list of parameters is complete."""
    for path in sorted((REPOSITORY / "orchestrator").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            match call:
                case ast.Call(func=ast.Name(id="warn"), args=[code], keywords=keywords):
                    match code:
                        case ast.Constant(value=str(text)):
                            codes = {text}
                        case _:
                            assert path.name == "sharing.py", f"{path} has a warning without a constant code"
                            codes = set(sharing._DIFFERENCES.values())
                    names = {each.arg for each in keywords}
                    yield from ((found, {name for name in names if name}, None not in names) for found in sorted(codes))


def test_the_table_lists_exactly_the_warnings_of_the_sources() -> None:
    assert {code for code, _, _ in given()} == {row.code for row in ROWS}


@pytest.mark.parametrize(("code", "parameters", "whole"), list(given()))
def test_a_warning_has_the_parameters_of_its_sentence(code: str, parameters: set[str], whole: bool) -> None:
    named = set(re.findall(r"\{(\w+)\}", TABLE[code].text))
    assert parameters <= named
    assert not whole or parameters == named


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.code)
def test_each_row_is_complete(row: reasons.WarningRow) -> None:
    assert row.remedy
    assert f"<!-- generated: warnings: {row.symptom} -->" in (REPOSITORY / "docs/troubleshooting.md").read_text()
    assert set(row.about) <= set(re.findall(r"\{(\w+)\}", row.text))
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", row.remedy))
    assert named <= {name.upper() for name in Settings.model_fields}


def test_a_part_in_brackets_is_left_out_without_its_parameters() -> None:
    assert filled("{a}[, {b} and {c}][: {d}]", {"a": 1, "b": 2, "d": "[x]"}) == "1: [x]"
    assert str(warn("boot_failed", detail="no {model}", agentId=None)) == "the last agent did not boot: no {model}"
    assert str(warn("boot_failed", detail="x", agentId="a1")).endswith("x; see: orchestrator logs a1")
    with pytest.raises(KeyError):
        warn("of_tomorrow")


def answer(*found: HealthWarning) -> dict[str, Any]:
    return {"warnings": [str(each) for each in found], "warningCodes": [each.as_json() for each in found]}


def subjects(health: dict[str, Any]) -> list[reasons.Subject]:
    return [subject for subject, _ in found_warnings(health)]


def test_a_warning_keeps_its_identity_when_numbers_and_cause_change() -> None:
    first = warn("program_restarts", program="beat", times=3, seconds=4, detail="no Redis")
    later = warn("program_restarts", program="beat", times=4, seconds=9, detail="no permission")
    other = warn("program_restarts", program="host1", times=3, seconds=4, detail="no Redis")
    assert subjects(answer(first)) == subjects(answer(later)) != subjects(answer(other))
    # Names that differ only in a number are different names.
    nodes = [warn("draining", node=name) for name in ("node-1", "node-2")]
    assert len(set(subjects(answer(*nodes)))) == 2
    assert [sentence for _, sentence in found_warnings(answer(*nodes))] == ["node node-1 drains", "node node-2 drains"]


def test_a_problem_instead_of_an_answer_is_one_warning() -> None:
    restarts = warn("program_restarts", program="beat", times=3, seconds=4, detail="no Redis")
    bare = {"code": "store_unavailable", "detail": "Redis does not answer"}
    more = {"code": "store_unavailable", "detail": f"Redis does not answer; {restarts}"}
    codes = {"warningCodes": [restarts.as_json()]}
    assert [sentence for _, sentence in found_warnings(more | codes)] == [more["detail"]]
    assert subjects(bare) == subjects(bare | {"detail": "Redis at x does not answer"}) != subjects(more | codes)
    assert list(found_warnings({})) == []


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([], []),
        (["pool_empty"], ["other"]),
        (["draining", "pool_empty", "store_unavailable", "draining"], ["store_unavailable", "draining"]),
    ],
)
def test_callers_get_only_codes_with_a_sentence_for_callers(found: list[str], told: list[str]) -> None:
    reply = HealthReply(
        status="", version="", access="", sessions={}, redis={"ok": True, "latencyMs": 1}, celery={},
        livekit={"ok": True}, breaker=BreakerReply(state="closed"), nodes={}, doors={}, stats={},
        warnings=[f"secret {code}" for code in found],
        warning_codes=[WarningCode(code=code, params={"node": "secret"}) for code in found],
    )  # fmt: skip
    seen = caller_view.health(reply)
    assert [each.code for each in seen.warning_codes] == told
    assert seen.warnings == [TABLE[code].caller for code in told]
    assert "secret" not in seen.model_dump_json()
