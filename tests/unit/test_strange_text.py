"""Text from strangers, in every command that shows it and in the log: it is shown without taking effect."""

import json
import logging
import re
import sys
from typing import Any

import pytest

from orchestrator.logs import JsonFormatter, TextFormatter
from orchestrator.machine.printable import json_safe, one_line
from tests.unit.test_commands import HEALTH, Api, Run, api, run

__all__ = ["api", "run"]

NASTY = [
    "[/x]", "[link=http://evil.example]click[/link]", "[bold red]ok[/]", "[", "\\[", ":bomb:", "\x1b[2J\x1b[31mred",
    "\x9b31mC1", "\x07bell\x08\x08", "a\rb", "a\nFAKE LINE", "a\u2028FAKE", "a\u2029FAKE", "a\x85FAKE", "a\x0b\x0cFAKE",
    "gpj.\u202eexe", "\u2066iso\u2069", "\u200f\u061crtl", "\u200bzero\ufeff", "\U000e0041tag", "soft\xadhyphen",
    "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\", "\x00nul", "\x7fdel", "%s%n{0}",
]  # fmt: skip
HARMLESS = ["Zoë", "山田", "שלום", "👩‍👩‍👧", "می‌خواهم", "ada@example.com"]
#: Characters that no line on a terminal may contain, except for our own colours.
DANGEROUS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\xad\ud800-\udfff\U000e0000-\U000e0fff]"
)
ID = "session_" + "0" * 32
AGENT, MUTE = "prewarm_" + "1" * 32, "prewarm_" + "2" * 32


def session(text: str) -> dict[str, Any]:
    return {
        "success": True, "sessionId": ID, "status": "error", "userId": text, "roomName": text, "agentPid": 7,
        "createdAt": "2026-01-01T12:00:00.000Z", "startupTime": 0.1, "reason": text, "client": text, "node": text,
        "events": [
            {"at": 0.0, "state": "queued", "position": 1}, {"at": 0.1, "state": "ready", "agentId": AGENT},
            {"at": 0.2, "state": "takeover", "agentId": AGENT, "cause": text},
            {"at": 0.3, "state": "boot_retried", "cause": text}, {"at": 0.4, "state": "error", "reason": text},
        ],
        "agents": [{"agentId": AGENT, "pid": 7, "node": text, "status": "exited", "cause": text}],
        "lastLogLines": [text],
    }  # fmt: skip


def told(api: Api, text: str) -> list[list[str]]:
    """Make every route answer with a text, and return the commands that show it."""
    node = {
        "node": text, "draining": False, "sessions": 1, "agents": 1, "warm": 1, "most": None, "host": True,
        "short": text, "version": text, "heard": 1.0,
    }  # fmt: skip
    breaker = {"state": "open", "failures": 6, "cause": text, "retryIn": 3.0}
    health = HEALTH | {
        "warnings": [text], "nodes": {text: {}}, "sizing": text, "breaker": breaker, "status": text, "version": text,
    }  # fmt: skip
    agent = {"agentId": AGENT, "status": "ready", "pid": 1, "node": text, "age": 1.0, "memory": 1}
    reload = {
        "reloadId": "7",
        "nodes": {text: f"failed: {text}"},
        "failed": [text],
        "stale": 0,
        "done": False,
        "message": text,
    }
    api.on("GET /api/health", health)
    api.on("GET /api/sessions", {"sessions": [session(text)], "agents": [agent]})
    api.on(f"GET /api/session/{ID}", session(text))
    api.on(f"GET /api/session/{ID}/logs", {"logs": [text]})
    dead = {"agentId": AGENT, "status": "exited", "cause": text}
    api.on(f"GET /api/agents/{AGENT}/logs", {"agent": dead, "logs": [text]})
    api.on(f"GET /api/agents/{MUTE}/logs", {"agent": dead | {"agentId": MUTE}, "logs": []})
    api.on("GET /api/nodes", {"nodes": [node]})
    api.on("POST /api/nodes/n/drain", node)
    api.on("POST /api/nodes/n/undrain", node)
    api.on("POST /api/session/stop", {"message": text})
    api.on("POST /api/pool/resize", {"message": text})
    api.on("POST /api/breaker/close", breaker)
    api.on("POST /api/agents/reload", reload)
    return [
        ["status"], ["sessions"], ["explain", ID], ["logs", ID], ["logs", "-f", ID], ["nodes"], ["drain", "n"],
        ["logs", AGENT], ["logs", "-f", AGENT], ["logs", MUTE],
        ["undrain", "n"], ["stop", ID], ["pool", "3"], ["breaker"], ["breaker", "--close"], ["agents", "reload"],
    ]  # fmt: skip


def strings(document: Any) -> list[str]:
    if isinstance(document, str):
        return [document]
    parts = [*document.values(), *document] if isinstance(document, dict) else document
    return [text for part in parts for text in strings(part)] if isinstance(parts, list) else []


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_foreign_text_has_no_effect_in_any_command(
    api: Api, run: Run, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.cli.logs.LAST_LINES_SECONDS", 0)
    for command in told(api, text):
        code, out, err = run(*command)
        assert code == (1 if "reload" in command else 0), (command, out, err)
        shown = out + err
        assert not DANGEROUS.search(shown), (command, ascii(shown))
        # Wrapped or truncated at the terminal's width, but present.
        assert re.sub(r"\s", "", one_line(text))[:10] in re.sub(r"\s", "", shown) or command[0] == "undrain", command
        assert not re.search(r"(?m)^FAKE", shown), (command, shown)
        if command[0] != "agents":
            code, out, _ = run(*command, "--json")
            assert not DANGEROUS.search(out), command
            assert any(text in found for found in strings(json.loads(out))) or command[0] == "pool", command


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_an_error_text_of_the_api_is_printed_without_effect(api: Api, run: Run, text: str) -> None:
    api.on("GET /api/health", {"detail": text, "code": text}, status=503)
    code, out, err = run("status")
    assert code != 0
    assert not DANGEROUS.search(out + err)
    assert re.sub(r"\s", "", one_line(text)) in re.sub(r"\s", "", err)
    code, out, err = run("logs", text if text != "[" else "[x")
    assert not DANGEROUS.search(out + err.replace("\x1b", "")) or sys.stderr.isatty()


@pytest.mark.parametrize("text", HARMLESS, ids=ascii)
def test_text_in_other_scripts_is_unchanged(api: Api, run: Run, text: str) -> None:
    told(api, text)
    _, out, _ = run("explain", ID)
    assert re.sub(r"\s+", " ", text) in re.sub(r"\s+", " ", out)
    _, out, _ = run("sessions", "--json")
    assert json.loads(out)["sessions"][0]["userId"] == text


def test_escaped_json_has_the_same_meaning() -> None:
    for text in NASTY + HARMLESS:
        assert json.loads(json_safe(json.dumps({"a": [text]}, indent=2, ensure_ascii=False))) == {"a": [text]}


@pytest.mark.parametrize("text", [text for text in NASTY if text != "[" and "\\" not in text], ids=ascii)
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_log_has_one_line_for_one_record(formatter: logging.Formatter, text: str) -> None:
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": f"refused: {text}", "fact": text})
    line = formatter.format(record)
    assert not DANGEROUS.search(line)
    assert "\n" not in line
    record = logging.makeLogRecord({"name": "x", "msg": "failed", "exc_info": (ValueError, ValueError(text), None)})
    assert not DANGEROUS.search(formatter.format(record).replace("\n", ""))
