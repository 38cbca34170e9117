"""The words for callers: each error and each reason has some, and nothing of the operator's is in them."""

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

from orchestrator import errors
from orchestrator.api import caller_words, problems
from orchestrator.api.access import Access
from orchestrator.cli import explain
from tests.support.api import ADMIN, is_problem, settings

ROOT = Path(__file__).parents[2]
PACKAGES = ("orchestrator", "agents")
CLASSES = [
    found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, errors.OrchestratorError)
]
#: The api's own, of which no class is.
OTHERS = ("malformed_request",)
INSIDE = "RuntimeError: redis://bot:hunter2@10.0.0.1 `python agent.py`"
#: What may stand in the detail of an error that is about the request: what was sent, and numbers of ours.
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
                continue  # what it says is said to the operator
            yield ast.parse(file.read_text())


def sources() -> str:
    files = [file for package in PACKAGES for kind in ("py", "lua") for file in (ROOT / package).rglob(f"*.{kind}")]
    return "\n".join(
        file.read_text() for file in files if file.name != "caller_words.py" and "schemas" not in file.parts
    )


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
async def test_of_every_error_a_caller_reads_a_fixed_sentence(error: type[errors.OrchestratorError]) -> None:
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


def test_what_an_error_about_the_request_says_is_of_the_request() -> None:
    """No exception, address or reason is put into the words that everybody may read."""
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
    assert put <= TOLD, f"callers would read it: {put - TOLD}"


def test_the_sentences_hold_nothing_of_the_inside() -> None:
    tables = (caller_words.PROBLEMS, caller_words.REASONS, caller_words.RENAMED, caller_words.WARNINGS)
    for sentence in (*(text for table in tables for text in table.values()), caller_words.OTHER, *caller_words.ENDS):
        assert not re.search(r"redis|livekit|celery|valkey|://|127\.|`|Error\b|\.py", sentence, re.IGNORECASE), sentence


def test_every_reason_in_the_code_is_known() -> None:
    kinds = set(re.findall(r"""['"]([a-z]+_[a-z_]+): [a-zA-Z{]""", sources()))
    kinds |= set(re.findall(r"tasks\.start\(\s*\"([a-z_]+)\"", sources()))
    not_reasons = {"ttl_redis", "room_name", "participant_identity", "participant_attributes"}
    assert kinds - not_reasons <= caller_words.REASONS.keys()
    assert {"boot_error", "queue_timeout", "pipeline_failed", "join_refused", "agent_error"} <= kinds


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (f"boot_error: {INSIDE}", "boot_error: The agent that was started for the call failed."),
        ("spawn_not_queued", "spawn_not_queued: An agent could not be asked for."),
        ("stopped by request of the caller", "stopped by request of the caller"),
        ("maximum length of 1800 s reached", "maximum length of 1800 s reached"),
        ("user was gone for 4.5 s", "user was gone for 4.5 s"),
        ("room closed (ROOM_DELETED)", "room_closed: The room was closed."),
        ("LiveKit has ended its dispatch", "call_withdrawn: Whoever asked for the call has withdrawn it."),
        (INSIDE, caller_words.OTHER),
        ("", caller_words.OTHER),
        ("boot_error", "boot_error: The agent that was started for the call failed."),
        (f"of_tomorrow: {INSIDE}", caller_words.OTHER),
        (f"the agent hung up {INSIDE}", caller_words.OTHER),
        (f"the agent hung up\n{INSIDE}", caller_words.OTHER),
        ("maximum length of 1.2.3.4 s reached", caller_words.OTHER),
    ],
)
def test_a_reason_is_told_by_its_code(raw: str, told: str) -> None:
    assert caller_words.reason(raw) == told


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("", ""),
        ("exited with code 0", "exited with code 0"),
        ("killed by signal 9", "agent_lost: The agent was lost."),
        (f"agent_error: {INSIDE}", "agent_error: The agent failed."),
        (INSIDE, "agent_lost: The agent was lost."),
    ],
)
def test_a_cause_is_told_by_its_code(raw: str, told: str) -> None:
    assert caller_words.cause(raw) == told


def codes() -> dict[str, Any]:
    """Return what the page with the Talk button must have words for."""
    reasons = [f"{code}: {text}" for code, text in caller_words.REASONS.items() if code != "not_found"]
    reasons += [*caller_words.RENAMED.values(), caller_words.OTHER]
    reasons += [end.replace("{}", "30") for end in caller_words.ENDS]
    return {"problems": sorted({*OTHERS, *(found.code for found in CLASSES)}), "reasons": reasons}


def test_the_page_is_tested_with_every_code() -> None:
    """words.test.ts holds that the page has words for what stands in this file."""
    file = ROOT / "frontend" / "src" / "codes.json"
    assert json.loads(file.read_text()) == codes(), f"write into it: {json.dumps(codes(), indent=2)}"


def test_the_status_page_and_explain_know_every_reason() -> None:
    text = (ROOT / "orchestrator" / "web" / "words.js").read_text()
    block = text[text.index("const KINDS") : text.index("};")]
    assert set(re.findall(r"^  (\w+):", block, re.MULTILINE)) == caller_words.REASONS.keys() - {"not_found"}
    assert explain._KINDS.keys() == caller_words.REASONS.keys()


def test_the_document_lists_them() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    for code, sentence in {**caller_words.PROBLEMS, **caller_words.REASONS}.items():
        if code == "not_found":
            continue
        assert re.search(rf"^\| `{code}` \|.*{re.escape(sentence)} \|", text, re.MULTILINE), code
    for found in CLASSES:
        assert not found.about_request or f"| `{found.code}` |" in text, found.code
    for end in (*caller_words.ENDS, *caller_words.RENAMED.values()):
        assert end.replace("{}", "N") in text, end
