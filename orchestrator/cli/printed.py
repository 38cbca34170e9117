"""`orchestrator logs`: what the agents of a session printed, or one agent process, also one that did not boot."""

import re
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from orchestrator.errors import NotFound
from orchestrator.models import ID_PATTERN
from orchestrator.node.api_client import Api
from orchestrator.node.output import Json, console, errors, print_json, print_json_line, styled
from orchestrator.settings import Settings

#: Seconds between two looks of `logs -f`.
FOLLOW_SECONDS = 0.5
#: Seconds for which `logs -f` waits for the last lines of what is over.
LAST_WORDS_SECONDS = 5.0
#: Lines that are asked for at a time.
LINES = 1000


def _id(given: str) -> str:
    if not re.match(ID_PATTERN, given):
        raise NotFound(
            f"there is no session or agent {given!r}: write its id in full, as `orchestrator sessions` shows it"
        )
    return given


def logs(
    printed_by: Annotated[str, typer.Argument(metavar="ID", help="Id of a session or of an agent.", callback=_id)],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until it is over.")] = False,
    json: Json = False,
) -> None:
    """Print what the agents of a session printed, or one agent, also after their death. -f --json: an object a line."""
    api = Api(Settings.load())
    seen: list[str] = []
    patience = LAST_WORDS_SECONDS
    read: Callable[[Api, str, bool], tuple[dict[str, Any], bool]] = _of_session
    while True:
        try:
            found, over = read(api, printed_by, follow)
        except NotFound:
            if read is _of_agent or seen:
                raise
            read = _of_agent
            continue
        if json and not follow:
            print_json(found)
            return
        for line in _new(seen, found["logs"]):
            if json:
                print_json_line({"line": line})
            else:
                console.print(styled(line), soft_wrap=True)
        seen = found["logs"]
        # An agent's last words come a moment after its session's end; the very last is the node's, in brackets.
        if not follow or (over and (patience <= 0 or (seen and seen[-1].startswith("[agent ")))):
            break
        patience -= FOLLOW_SECONDS if over else 0
        time.sleep(FOLLOW_SECONDS)
    if not seen:
        errors.print(styled(f"Nothing was printed{_ending(found)}."))


def _of_session(api: Api, session_id: str, follow: bool) -> tuple[dict[str, Any], bool]:
    """Return what is printed by now, and whether nobody is left who prints. Raises `NotFound`."""
    # Asked first: what was printed by then is read.
    over = follow and api.get(f"/api/session/{session_id}")["status"] in {"ended", "error"}
    return api.get(f"/api/session/{session_id}/logs", limit=LINES), over


def _of_agent(api: Api, agent_id: str, _follow: bool) -> tuple[dict[str, Any], bool]:
    try:
        found = api.get(f"/api/agents/{agent_id}/logs", limit=LINES)
    except NotFound:
        raise NotFound(f"there is no session and no agent {agent_id}, or its record is not kept any more") from None
    return found, found.get("agent", {}).get("status", "exited") == "exited"


def _ending(found: dict[str, Any]) -> str:
    agent = found.get("agent", {})
    return f": the agent is {agent['status']}{f' ({cause})' if (cause := agent.get('cause')) else ''}" if agent else ""


def _new(seen: list[str], lines: list[str]) -> list[str]:
    """Return what was added to a list whose head may have been cut off."""
    for start in range(len(seen) + 1):
        rest = seen[start:]
        if lines[: len(rest)] == rest:
            return lines[len(rest) :]
    return lines
