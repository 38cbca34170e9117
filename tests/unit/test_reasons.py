"""The table of reasons: texts are made of a code and its parameters, and callers read no internal details."""

import json
import re
from typing import Any

import pytest

from orchestrator import errors, reasons
from orchestrator.api import reasons as served
from orchestrator.reasons import Reason, because
from orchestrator.settings import Settings

TABLE = reasons.table()
KINDS = {"end", "failure", "boot", "death", "leave"}
DETAIL = "RuntimeError: redis://bot:hunter2@10.0.0.1 `python agent.py`"
#: Parameters of every name that a template has.
PARAMS: dict[str, Any] = {
    "signal": 9, "exitCode": 3, "seconds": 4.5, "memoryMib": 900, "limitMib": 512, "disconnect": "ROOM_DELETED",
    "pid": 41, "hostPid": 42, "cause": "killed", "detail": DETAIL,
}  # fmt: skip


@pytest.mark.parametrize("row", TABLE.reasons.values(), ids=lambda row: row.code)
def test_each_row_is_complete(row: reasons.Row) -> None:
    assert row.kind in KINDS
    assert row.remedy
    assert bool(row.sentence) is (row.kind in {"failure", "boot"} or row.text.isidentifier()), "a code explains nothing"
    assert bool(row.told_as) is not bool(row.caller), "callers get either its own sentence or that of another code"
    assert not row.told_as or not TABLE.reasons[row.told_as].told_as
    assert bool(row.title) is bool(row.page)
    assert row.title or row.told_as or row.kind == "leave", "the page would have no text for it"
    for template in (row.text, row.sentence, row.caller, row.page):
        assert set(re.findall(r"\{(\w+)\}", template)) <= PARAMS.keys()


@pytest.mark.parametrize("row", TABLE.problems.values(), ids=lambda row: row.code)
def test_each_problem_is_complete(row: reasons.Problem) -> None:
    assert row.title and row.page and row.remedy  # noqa: PT018 - none may be missing


def test_every_error_is_in_the_table() -> None:
    inside = {"not_the_agent", "spawn_failed", "given_up", "not_delivered", "preflight"}
    classes = [
        found
        for found in vars(errors).values()
        if isinstance(found, type) and issubclass(found, errors.OrchestratorError)
    ]
    raised = {found.code for found in classes} | {"malformed_request", "body_too_large"}
    assert raised == TABLE.problems.keys()
    for found in classes:
        if not found.about_request and found.code not in inside:
            assert TABLE.problems[found.code].caller, found.code


def test_every_setting_named_in_a_remedy_exists() -> None:
    rows = [*TABLE.reasons.values(), *TABLE.problems.values()]
    named = {name for row in rows for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", row.remedy)}
    known = {name.upper() for name in Settings.model_fields} | {"AGENT_ID"}
    assert named <= known, named - known


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (because("killed", signal=9), "killed by signal 9"),
        (because("killed", signal=9).within("agent_lost"), "agent_lost: killed by signal 9"),
        (because("crashed", exitCode=3, detail="key").within("boot_error"), "boot_error: exited with code 3: key"),
        (because("boot_error", detail="no model", attempts=4), "boot_error: no model (after 4 attempts)"),
        (because("max_duration", seconds=1800.0), "maximum length of 1800 s reached"),
        (because("queue_timeout", seconds=1.5), "queue_timeout: no room within 1.5 s"),
        (because("handed_over"), "node_draining: the node stops, the call goes on elsewhere"),
        (because("spawn_not_queued"), "spawn_not_queued"),
        (because("record_lost"), "agent_lost: its record is gone"),
        (because("killed"), "killed by signal ?"),
        (reasons.words("done here"), "done here"),
        (reasons.words("done here").within("agent_lost"), "agent_lost: done here"),
        (Reason("", {}, "old words"), "old words"),
        (Reason("", {}, "old words").within("agent_lost"), "agent_lost: old words"),
        (Reason("of_tomorrow", {}, "new words"), "new words"),
    ],
)  # fmt: skip
def test_a_text_is_made_of_a_code_and_its_parameters(reason: Reason, text: str) -> None:
    assert reason.text == text


def test_facts_name_the_signal() -> None:
    assert because("killed", signal=11).facts == "killed by signal 11 (SIGSEGV)"
    assert because("killed", signal=9).within("agent_lost").facts == "killed by signal 9 (SIGKILL)"
    assert because("killed", signal=99).facts == "killed by signal 99"
    assert Reason("", {}, "old words").facts == "old words"


@pytest.mark.parametrize(
    ("exit_code", "number", "code"),
    [(0, None, "finished"), (3, None, "crashed"), (None, 9, "killed"), (None, None, "process_gone")],
)
def test_exit_codes_and_signals_give_a_reason(exit_code: int | None, number: int | None, code: str) -> None:
    assert reasons.exit_of(exit_code, number).code == code


def test_a_record_is_read_as_it_was_written() -> None:
    written = json.loads(because("killed", signal=9).record())
    fields = {"cause": written["text"], "causeCode": written["code"], "causeParams": json.dumps(written["params"])}
    assert Reason.recorded_as(fields, "cause") == Reason("killed", {"signal": 9}, "killed by signal 9")
    assert Reason.recorded_as({}, "cause") is None
    # A reason of the previous release, and one that cannot be parsed.
    assert Reason.recorded_as({"cause": "killed by signal 9"}, "cause") == Reason("", {}, "killed by signal 9")
    broken = fields | {"causeParams": "[1"}
    assert Reason.recorded_as(broken, "cause") == Reason("killed", {}, "killed by signal 9")


def test_the_size_of_a_record_is_bounded() -> None:
    assert len(because("agent_error", detail="é" * 3_000_000).record()) < 3 * reasons.LONGEST


@pytest.mark.parametrize("code", TABLE.reasons)
def test_callers_get_no_internal_details(code: str) -> None:
    told = reasons.for_callers(because(code, **PARAMS))
    assert not re.search(r"hunter2|10\.0\.0|ROOM_DELETED|signal|python|redis|LiveKit|\?", told.text)
    assert set(told.params) <= reasons.PUBLIC_PARAMS
    assert code in {told.code} or TABLE.reasons[code].told_as == told.code


def test_callers_get_a_general_text_for_an_unknown_code() -> None:
    for reason in (Reason("", {}, DETAIL), Reason("of_tomorrow", {}, DETAIL)):
        assert reasons.for_callers(reason).text == "other: The call is over, for a reason of its agent's own."


def test_callers_get_only_their_own_texts() -> None:
    callers, operators = served.for_callers(), served.for_operators()
    assert operators.reasons.keys() == TABLE.reasons.keys()
    assert callers.reasons.keys() == {code for code, row in TABLE.reasons.items() if not row.told_as}
    text = callers.model_dump_json(by_alias=True, exclude_none=True)
    for row in TABLE.reasons.values():
        assert row.remedy not in text
    assert "killed" not in text
    assert (operators.signals or {})["9"] == "SIGKILL"
