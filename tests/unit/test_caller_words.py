"""The texts for callers: each error and each reason has one, without information for operators."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from orchestrator import errors, reasons
from orchestrator.api import caller_words, problems
from orchestrator.api import reasons as served
from orchestrator.api.access import Access
from orchestrator.cli import explain
from orchestrator.reasons import Reason, because, words
from orchestrator.store.loader import includes
from tests.support.api import ADMIN, is_problem, settings

ROOT = Path(__file__).parents[2]
PACKAGES = ("orchestrator", "agent_runtime", "agents")
CLASSES = [
    found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, errors.OrchestratorError)
]
#: The text that callers get instead of an internal text.
OTHER = "other: The call is over, for a reason of its agent's own."
INSIDE = "RuntimeError: redis://bot:hunter2@10.0.0.1 `python agent.py`"
#: Values that the detail of an error about the request may contain: parts of the request, and our own numbers.
TOLD = {
    "detail + (', or set API_KEYS.' if self._loopback_only else '.')", "node", "node_id",
    "reserved[:64]", "ATTRIBUTES_BYTES", "wanted.agent_name", "agent_name", "limit", "wait", "waiting",
    "self._settings.rate_limit.replace('/', ' starts a ')", "math.ceil(seconds)", "message", "len(text.encode())",
    "METADATA_BYTES", "agent_id",
}  # fmt: skip


def trees() -> Iterator[ast.Module]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if "cli" in file.parts:
                continue  # its text is for the operator
            yield ast.parse(file.read_text())


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
async def test_callers_get_a_fixed_sentence_for_every_error(error: type[errors.OrchestratorError]) -> None:
    app = FastAPI()
    problems.install(app)
    config = settings("redis://127.0.0.1:1/0", api_keys="first-key-of-16-and-more")
    app.state.services = SimpleNamespace(access=Access(config), settings=config)

    @app.get("/fails")
    async def fails() -> None:
        failure = errors.OrchestratorError.__new__(error)
        errors.OrchestratorError.__init__(failure, INSIDE, retry_after=1)
        raise failure

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        for secret in ("", "first-key-of-16-and-more", "cs_x"):
            body = is_problem(await http.get("/fails", headers=bearer(secret)), error.status, error.code)
            if not error.about_request:
                assert body["detail"] == caller_words.problem(error.code)
        assert is_problem(await http.get("/fails", headers=ADMIN), error.status, error.code)["detail"] == INSIDE


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def test_errors_about_the_request_contain_only_the_request() -> None:
    """Texts for everybody contain no exception, address or reason."""
    names = {error.__name__ for error in CLASSES if error.about_request}
    put = set()
    for tree in trees():
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args)
        for call in calls:
            if isinstance(call.func, ast.Name) and call.func.id in names:
                values = [node for node in ast.walk(call.args[0]) if isinstance(node, ast.FormattedValue)]
                if isinstance(call.args[0], ast.Constant | ast.JoinedStr):
                    put |= {ast.unparse(value.value) for value in values}
                else:
                    put.add(ast.unparse(call.args[0]))
    assert put <= TOLD, f"callers would read these values: {put - TOLD}"


def test_the_sentences_contain_no_internal_details() -> None:
    table = reasons.table()
    rows = [*table.reasons.values(), *table.problems.values()]
    for sentence in (*(row.caller for row in rows), *(row.page for row in rows), *caller_words.WARNINGS.values()):
        assert not re.search(r"redis|livekit|celery|valkey|://|127\.|`|Error\b|\.py", sentence, re.IGNORECASE), sentence


def written() -> set[str]:
    """Return all codes of reasons in the sources."""
    codes = set()
    for tree in trees():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
            if name in {"because", "within"}:
                (code,) = _constants(call.args[0], tree)
                codes |= code
    for path in (ROOT / "orchestrator/store/lua").rglob("*.lua"):
        codes |= {part.removeprefix("reason_") for part in includes(path.read_text()) if part.startswith("reason_")}
    return codes


def _constants(node: ast.expr, tree: ast.Module) -> list[set[str]]:
    """Return the possible texts of an expression: a constant, one of two, or a local name for those."""
    match node:
        case ast.Constant(value=str(text)):
            return [{text}]
        case ast.IfExp(body=first, orelse=second):
            return [_constants(first, tree)[0] | _constants(second, tree)[0]]
        case ast.Name(id=name):
            assigned = (each for each in ast.walk(tree) if isinstance(each, ast.Assign))
            values = [each.value for each in assigned if name in {getattr(target, "id", "") for target in each.targets}]
            return [set().union(*(_constants(value, tree)[0] for value in values))]
    return [{reasons.OTHER}] if ast.unparse(node) == "OTHER" else []


def test_every_code_has_texts_for_callers_operators_and_documents() -> None:
    table, document = reasons.table().reasons, (ROOT / "docs" / "errors.md").read_text()
    found = written()
    assert found == table.keys() - {"not_found"}, "the last one is added by the page, for a session without a record"
    callers, operators = served.for_callers(), served.for_operators()
    for code in found:
        reason = because(code, **PARAMS)
        assert f"| `{code}` |" in document, code
        assert reasons.for_callers(reason).code in callers.reasons
        assert (operators.reasons[code].text or operators.reasons[code].operator or code == reasons.OTHER) is not None
        # `orchestrator explain` prints a line for it, with the facts.
        record = {"sessionId": "s", "userId": "ada", "roomName": "r", "createdAt": "2026-01-01T12:00:00.000Z"}
        end = {"at": 1.0, "state": "error", "reason": reason.text, "reasonCode": code, "reasonParams": PARAMS}
        line = explain.story(record | {"status": "error", "events": [end]})[3]
        assert "It failed: " in line
        assert table[code].sentence in line
        assert "?" not in line


#: Parameters of every name that a template has.
PARAMS: dict[str, Any] = {
    "signal": 9, "exitCode": 3, "seconds": 4.5, "memoryMib": 900, "limitMib": 512, "disconnect": "ROOM_DELETED",
    "pid": 41, "hostPid": 42, "cause": "killed", "detail": "as it was said",
}  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (because("boot_error", detail=INSIDE), "boot_error: The agent that was started for the call failed."),
        (because("spawn_not_queued"), "spawn_not_queued: An agent could not be asked for."),
        (because("stopped_by_caller"), "stopped by request of the caller"),
        (because("max_duration", seconds=1800), "maximum length of 1800 s reached"),
        (because("user_gone", seconds=4.5), "user was gone for 4.5 s"),
        (because("room_closed", disconnect="ROOM_DELETED"), "room_closed: The room was closed."),
        (because("call_withdrawn"), "call_withdrawn: Whoever asked for the call has withdrawn it."),
        (because("too_much_data"), "too_much_data: The call's page sent more data than it may."),
        (because("killed", signal=9), "agent_lost: The agent was lost."),
        (words(INSIDE), OTHER),
        (Reason("", {}, INSIDE), OTHER),
        (Reason("of_tomorrow", {"seconds": 4}, INSIDE), OTHER),
        # The previous release wrote only a text. It may look like one of ours, and contain anything.
        (Reason("", {}, f"the agent hung up {INSIDE}"), OTHER),
        (Reason("", {}, f"boot_error: {INSIDE}"), OTHER),
    ],
)
def test_a_reason_is_translated_by_its_code(raw: Reason, told: str) -> None:
    found = caller_words.reason(raw.text, raw.code, dict(raw.params))
    assert found["reason"] == told
    assert found["reason_code"] in served.for_callers().reasons
    assert (found["reason_params"] or {}).keys() <= {"seconds"}


@pytest.mark.parametrize(
    ("raw", "code", "told"),
    [
        (because("finished", exitCode=0), "finished", "exited with code 0"),
        (because("killed", signal=9), "agent_lost", "agent_lost: The agent was lost."),
        (because("agent_error", detail=INSIDE), "agent_error", "agent_error: The agent failed."),
        (because("handed_over"), "node_draining", "node_draining: The service was about to restart."),
        (words(INSIDE), "agent_lost", "agent_lost: The agent was lost."),
        (Reason("", {}, INSIDE), "agent_lost", "agent_lost: The agent was lost."),
    ],
)
def test_a_cause_is_translated_by_its_code(raw: Reason, code: str, told: str) -> None:
    found = caller_words.cause(raw.text, raw.code, dict(raw.params))
    assert (found["cause_code"], found["cause"]) == (code, told)


def test_a_missing_reason_gets_no_text() -> None:
    assert caller_words.reason(None, None, None) == {}
    assert caller_words.cause(None, None, None) == {}


def test_the_page_is_built_with_the_texts_for_callers() -> None:
    """words.test.ts checks that the page has a text for each."""
    file = ROOT / "frontend" / "src" / "codes.json"
    table = served.for_callers().model_dump(by_alias=True, exclude_none=True, exclude={"success"})
    assert json.loads(file.read_text()) == table, f"write into it: {json.dumps(table, indent=2, ensure_ascii=False)}"


def test_the_document_lists_the_texts_for_callers() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    table = reasons.table()
    for code, row in table.problems.items():
        if row.caller:
            assert re.search(rf"^\| `{code}` \|.*{re.escape(row.caller)} \|", text, re.MULTILINE), code
    for found in CLASSES:
        assert not found.about_request or f"| `{found.code}` |" in text, found.code
    for code, reason in table.reasons.items():
        told = reasons.for_callers(because(code, seconds="N")).text if not reason.told_as else f"`{reason.told_as}`"
        assert f"| `{code}` | {told} |" in text, code
