"""The commands that talk to a node, with a fake API: their requests, output and exit codes."""

import json
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from orchestrator.cli import agents, doctor, nodes
from orchestrator.cli import logs as logs_module
from orchestrator.cli.main import main
from orchestrator.node.output import console

REPLY = {
    "reloadId": "7f3a9d8b7e6f5a4b",
    "nodes": {"n1": "running"},
    "failed": [],
    "stale": 0,
    "done": False,
    "message": "loading",
}
OPEN = {"state": "open", "failures": 6, "cause": "boot_error: no [such] model", "retryIn": 31.4}
CLOSED = {"state": "closed", "failures": 0, "cause": None, "retryIn": 0}
HEALTH: dict[str, Any] = {
    "success": True, "status": "ok", "version": "0.1.0", "redis": {"latencyMs": 0.3}, "celery": {"queue": 0},
    "sessions": {"pool": 3, "booting": 0, "queued": 0, "starting": 0, "ready": 0, "active": 1, "target": 3, "max": 50},
    "nodes": {"n1": {}}, "stats": {}, "warnings": [], "breaker": CLOSED, "sizing": None,
}  # fmt: skip


class Api:
    """Gives each route's answers in turn, and repeats the last."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.asked: list[str] = []

    def on(self, route: str, *answers: dict[str, Any], status: int = 200) -> None:
        self.answers[route] = [(status, answer) for answer in answers]

    def handle(self, request: httpx.Request) -> httpx.Response:
        route = f"{request.method} {request.url.path}"
        self.asked.append(route)
        answers = self.answers.get(route, [(404, {"detail": "There is no such thing."})])
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        return httpx.Response(int(body.get("status", status)) if "code" in body else status, json=body)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    found = Api()
    real = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: real(transport=httpx.MockTransport(found.handle), **options))
    monkeypatch.setattr(agents, "POLL_SECONDS", 0)
    monkeypatch.setattr(console, "_width", 200)
    return found


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command; returns exit code, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["orchestrator", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    return call


def test_reload_prints_its_progress(api: Api, run: Run) -> None:
    path = f"/api/agents/reload/{REPLY['reloadId']}"
    api.on("POST /api/agents/reload", REPLY | {"nodes": {"n1": "waiting", "n2": "waiting"}})
    api.on(
        f"GET {path}",
        REPLY | {"nodes": {"n1": "running", "n2": "waiting"}},
        REPLY | {"nodes": {"n1": "running", "n2": "waiting"}},
        REPLY | {"nodes": {"n1": "done", "n2": "done"}, "stale": 2},
        REPLY | {"nodes": {"n1": "done", "n2": "done"}, "done": True, "message": "New agent code is live."},
    )
    code, out, _ = run("agents", "reload")
    assert code == 0
    assert out.splitlines() == [
        "n1: waiting, n2: waiting", "n1: running, n2: waiting", "n1: done, n2: done; 2 warm agents to replace",
        "New agent code is live.",
    ]  # fmt: skip
    assert api.asked == ["POST /api/agents/reload"] + [f"GET {path}"] * 4


AWAY = {"success": False, "status": 503, "code": "store_unavailable", "detail": "Redis does not answer"}


def test_commands_keep_waiting_during_an_outage_of_redis(api: Api, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0)
    node = {"node": "n1", "sessions": 2, "agents": 2}
    api.on("POST /api/nodes/n1/drain", node)
    api.on("GET /api/nodes/n1", AWAY, node | {"sessions": 1}, AWAY, node | {"sessions": 0})
    code, out, _ = run("drain", "n1", "--wait")
    assert (code, out.splitlines()[-1]) == (0, "n1 takes no new sessions; no call is left.")
    api.on("POST /api/agents/reload", REPLY)
    api.on(f"GET /api/agents/reload/{REPLY['reloadId']}", AWAY, REPLY | {"done": True, "message": "live"})
    assert run("agents", "reload")[0] == 0
    for command, path in ((("drain", "n1"), "nodes/n1/drain"), (("agents", "reload"), "agents/reload")):
        api.on(f"POST /api/{path}", AWAY)
        code, _, errors = run(*command)
        assert (code, errors) == (1, "orchestrator: Redis does not answer\n")


def test_a_failed_reload_exits_with_an_error(api: Api, run: Run) -> None:
    failed = REPLY | {"nodes": {"n1": "failed: SyntaxError"}, "failed": ["n1"], "message": "n1: failed: SyntaxError"}
    api.on("POST /api/agents/reload", REPLY)
    api.on(f"GET /api/agents/reload/{REPLY['reloadId']}", failed)
    code, _, errors = run("agents", "reload")
    assert (code, errors) == (1, "orchestrator: not reloaded: n1: failed: SyntaxError\n")
    code, out, _ = run("agents", "reload", "--json")
    assert (code, json.loads(out)) == (1, failed)


def test_a_slow_reload_exits_with_an_error(api: Api, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "RELOAD_SECONDS", 0)
    api.on("POST /api/agents/reload", REPLY)
    api.on(f"GET /api/agents/reload/{REPLY['reloadId']}", REPLY)
    code, _, errors = run("agents", "reload")
    assert code == 1
    assert "not live after 0 s" in errors


def test_a_superseded_reload_exits_with_an_error(api: Api, run: Run) -> None:
    api.on("POST /api/agents/reload", REPLY)
    api.on("GET /api/agents/reload/x", REPLY)
    code, _, errors = run("agents", "reload")
    assert (code, errors) == (1, "orchestrator: There is no such thing.\n")


def test_reload_without_a_node_exits_with_an_error(api: Api, run: Run) -> None:
    api.on("POST /api/agents/reload", {"detail": "No node lives that could load agent code."}, status=503)
    assert run("agents", "reload") == (1, "", "orchestrator: No node lives that could load agent code.\n")


def test_breaker_prints_and_closes_the_breaker(api: Api, run: Run) -> None:
    api.on("GET /api/health", HEALTH | {"breaker": OPEN}, HEALTH | {"breaker": OPEN}, HEALTH)
    api.on("POST /api/breaker/close", {"success": True} | CLOSED)
    line = "open after 6 failed boots (boot_error: no [such] model); the next attempt is in 31 s\n"
    assert run("breaker") == (0, line, "")
    assert json.loads(run("breaker", "--json")[1]) == OPEN
    assert "POST /api/breaker/close" not in api.asked
    assert run("breaker") == (0, "closed: agents boot\n", "")
    assert run("breaker", "--close") == (0, "closed: agents boot\n", "")
    assert api.asked[-1] == "POST /api/breaker/close"
    assert json.loads(run("breaker", "--close", "--json")[1])["state"] == "closed"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"state": "half-open", "retryIn": 0},
            "half-open after 6 failed boots (boot_error: no [such] model); an attempt is running",
        ),
        ({"state": "closed", "failures": 1}, "closed after 1 failed boot (boot_error"),
    ],
)
def test_breaker_command_prints_the_state(api: Api, run: Run, changes: dict[str, Any], words: str) -> None:
    api.on("GET /api/health", HEALTH | {"breaker": OPEN | changes})
    assert words in run("breaker")[1]


def test_status_of_a_healthy_node_is_short(api: Api, run: Run) -> None:
    api.on("GET /api/health", HEALTH)
    code, out, _ = run("status")
    assert code == 0
    assert "ok  version 0.1.0" in out
    assert "0 waiting" in out
    assert "breaker" not in out
    assert "sizing" not in out


def test_status_shows_queue_breaker_sizing_and_drain(api: Api, run: Run) -> None:
    why = "1.00 starts/s times 0.05 s to boot, with a margin, need 2"
    changes = {"status": "degraded", "breaker": OPEN, "sizing": why, "warnings": ["node n1 drains", "said: [red]x"]}
    api.on("GET /api/health", HEALTH | changes | {"sessions": HEALTH["sessions"] | {"queued": 7}})
    _, out, _ = run("status")
    shown = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in out.splitlines() if line.split()}
    assert shown["line"] == "7 waiting"
    assert shown["breaker"].startswith("open after 6 failed boots (boot_error: no [such] model)")
    assert shown["sizing"] == why
    assert "! node n1 drains" in out
    assert "! said: [red]x" in out, "text from others is not interpreted as markup"
    assert json.loads(run("status", "--json")[1])["sessions"]["queued"] == 7


def test_explain_prints_the_history_of_a_session(api: Api, run: Run) -> None:
    session_id = "session_" + "0" * 32
    record = {
        "sessionId": session_id, "status": "error", "roomName": "room_1", "userId": "[ada]", "agents": [],
        "createdAt": "2026-01-01T12:00:00.000Z", "events": [{"at": 0.0, "state": "queued"}],
    }  # fmt: skip
    api.on(f"GET /api/session/{session_id}", record)
    code, out, _ = run("explain", session_id)
    assert code == 0
    assert "12:00:00.000     +0.000 s  [ada] asked for an agent" in out
    assert json.loads(run("explain", session_id, "--json")[1]) == record
    assert run("explain", "session_" + "1" * 32)[0] == 4


@pytest.mark.parametrize(("found", "code", "said"), [([], 0, "clean\n"), (["one [x]", "two"], 1, "one [x]\ntwo\n")])
def test_doctor_prints_violated_invariants(
    run: Run, monkeypatch: pytest.MonkeyPatch, found: list[str], code: int, said: str
) -> None:
    monkeypatch.setattr(doctor, "violations", lambda _: found)
    assert run("doctor", "--invariants") == (code, said, "")
    assert run("doctor", "--invariants", "--json") == (code, json.dumps(found, indent=2) + "\n", "")


AGENT = "prewarm_" + "a" * 32
SESSION = "session_" + "b" * 32
UNFINISHED = {"logs": ["loading", "RuntimeError: no model"], "complete": False}
BOOTING = {"agent": {"agentId": AGENT, "status": "starting"}, "logs": ["loading"]}
FAILED = {
    "agent": {"agentId": AGENT, "status": "exited", "cause": "boot_error: exited with code 1: no model"},
    "logs": ["loading", "RuntimeError: no model", "[agent exited with code 1]"],
    "complete": True,
}  # fmt: skip


def test_logs_prints_the_log_of_a_failed_boot(api: Api, run: Run) -> None:
    api.on(f"GET /api/agents/{AGENT}/logs", FAILED)
    assert run("logs", AGENT) == (0, "loading\nRuntimeError: no model\n[agent exited with code 1]\n", "")
    assert json.loads(run("logs", AGENT, "--json")[1]) == FAILED


def test_a_session_takes_precedence_over_an_agent_with_the_same_id(api: Api, run: Run) -> None:
    api.on(f"GET /api/session/{SESSION}/logs", {"logs": ["of all its agents"]})
    assert run("logs", SESSION) == (0, "of all its agents\n", "")
    assert not any("/api/agents/" in asked for asked in api.asked)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "POLL_SECONDS", 0)
    monkeypatch.setattr(logs_module, "LAST_LINES_SECONDS", 0)


def test_logs_follows_an_agent_to_its_end(api: Api, run: Run, quick: None) -> None:
    api.on(f"GET /api/agents/{AGENT}/logs", BOOTING, BOOTING, FAILED | UNFINISHED, FAILED)
    code, out, err = run("logs", "-f", AGENT)
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["loading", "RuntimeError: no model"]
    assert api.asked.count(f"GET /api/session/{AGENT}/logs") == 1, "the id is requested once"


@pytest.mark.parametrize("line", ["[agent exited with code 1]", "the agent's own last line"])
def test_a_log_is_followed_until_the_api_reports_it_complete(
    api: Api, run: Run, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """An agent may print a line that looks like the node's last one."""
    monkeypatch.setattr(logs_module, "POLL_SECONDS", 0)
    looks = {"agent": FAILED["agent"], "logs": ["[agent exited with code 0]"], "complete": False}
    whole = looks | {"logs": ["[agent exited with code 0]", line], "complete": True}
    api.on(f"GET /api/agents/{AGENT}/logs", looks, looks, whole)
    assert run("logs", "-f", AGENT) == (0, f"[agent exited with code 0]\n{line}\n", "")


@pytest.mark.parametrize("printed_by", [AGENT, SESSION])
def test_followed_logs_are_printed_as_one_json_object_per_line(
    api: Api, run: Run, quick: None, printed_by: str
) -> None:
    api.on(f"GET /api/agents/{AGENT}/logs", BOOTING, FAILED)
    api.on(f"GET /api/session/{SESSION}", {"status": "active"}, {"status": "ended"})
    api.on(f"GET /api/session/{SESSION}/logs", {"logs": ["loading"]}, {"logs": FAILED["logs"], "complete": True})
    code, out, err = run("logs", "-f", "--json", printed_by)
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [{"line": line} for line in FAILED["logs"]]


def test_an_empty_log_is_reported_with_the_agents_state(api: Api, run: Run) -> None:
    cause = "not spawned: the agent host is away"
    api.on(f"GET /api/agents/{AGENT}/logs", {"agent": {"status": "exited", "cause": cause}, "logs": []})
    assert run("logs", AGENT) == (0, "", f"Nothing was printed: the agent is exited ({cause}).\n")
    api.on(f"GET /api/session/{SESSION}/logs", {"logs": []})
    assert run("logs", SESSION) == (0, "", "Nothing was printed.\n")


@pytest.mark.parametrize("options", [(), ("-f",), ("--json",), ("-f", "--json")])
def test_logs_of_an_unknown_id_exit_with_an_error(api: Api, run: Run, options: tuple[str, ...]) -> None:
    code, out, err = run("logs", AGENT, *options)
    assert (code, out) == (4, "")
    assert err == f"orchestrator: there is no session or agent {AGENT}, or its record has expired\n"
    code, _, err = run("logs", "prewarm_0bf52f7c", *options)
    assert code == 4
    assert "write its id in full" in err


def test_breaker_names_the_command_for_the_log_of_a_failed_boot(api: Api, run: Run) -> None:
    api.on("GET /api/health", HEALTH | {"breaker": OPEN | {"agentId": AGENT}})
    assert run("breaker")[1].splitlines()[1] == f"See: orchestrator logs {AGENT}"
