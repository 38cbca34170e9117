"""`orchestrator logs`: the output of a session's agents, or of one agent process, also of one that did not boot."""

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from orchestrator.cli.arguments import LogId
from orchestrator.errors import NotFound
from orchestrator.node.api_client import Api
from orchestrator.node.output import Json, console, errors, print_json, print_json_line, styled
from orchestrator.settings import Settings

#: Seconds between two requests of `logs -f`.
POLL_SECONDS = 0.5
#: Seconds for which `logs -f` waits for the last lines after the end.
LAST_LINES_SECONDS = 5.0
#: Lines per request.
LINES = 1000

#: Requests the output of an id, and returns it and whether whatever printed it is over.
Source = Callable[[Api, str, bool], tuple[dict[str, Any], bool]]


def logs(
    log_id: LogId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Print new lines until the end.")] = False,
    json: Json = False,
) -> None:
    """Print the output of a session's agents, or of one agent. With -f --json, one object a line."""
    api = Api(Settings.load())
    source = _source(api, log_id)
    printed: list[str] = []
    patience = LAST_LINES_SECONDS
    while True:
        answer, over = source(api, log_id, follow)
        if json and not follow:
            print_json(answer)
            return
        _print_lines(_new_lines(printed, answer["logs"]), json)
        printed = answer["logs"]
        # An agent's last lines arrive a moment after its session's end, and never if its node is gone too.
        if not follow or answer.get("complete") or (over and patience <= 0):
            break
        patience -= POLL_SECONDS if over else 0
        time.sleep(POLL_SECONDS)
    if not printed:
        errors.print(styled(f"Nothing was printed{_agent_status(answer)}."))


def _source(api: Api, log_id: str) -> Source:
    """Return what an id names: a session, else an agent."""
    try:
        api.get(f"/api/session/{log_id}/logs", limit=1)
    except NotFound:
        return _agent_logs
    return _session_logs


def _session_logs(api: Api, session_id: str, follow: bool) -> tuple[dict[str, Any], bool]:
    # The status is read first, so that no line is missed that was printed before the end.
    over = follow and api.get(f"/api/session/{session_id}")["status"] in {"ended", "error"}
    return api.get(f"/api/session/{session_id}/logs", limit=LINES), over


def _agent_logs(api: Api, agent_id: str, _follow: bool) -> tuple[dict[str, Any], bool]:
    try:
        answer = api.get(f"/api/agents/{agent_id}/logs", limit=LINES)
    except NotFound:
        raise NotFound(f"there is no session or agent {agent_id}, or its record has expired") from None
    return answer, answer.get("agent", {}).get("status", "exited") == "exited"


def _agent_status(answer: dict[str, Any]) -> str:
    agent = answer.get("agent", {})
    return f": the agent is {agent['status']}{f' ({cause})' if (cause := agent.get('cause')) else ''}" if agent else ""


def _print_lines(lines: list[str], json: bool) -> None:
    for line in lines:
        if json:
            print_json_line({"line": line})
        else:
            console.print(styled(line), soft_wrap=True)


def _new_lines(printed: list[str], lines: list[str]) -> list[str]:
    """Return the lines that were appended to a list which may have lost its first ones."""
    for start in range(len(printed) + 1):
        rest = printed[start:]
        if lines[: len(rest)] == rest:
            return lines[len(rest) :]
    return lines
