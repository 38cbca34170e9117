"""`orchestrator agents reload`: brings new agent code live on every node."""

import time
from typing import Any

import typer

from orchestrator.errors import NotFound, OrchestratorError
from orchestrator.node.api_client import Api
from orchestrator.node.output import Json, console, print_json
from orchestrator.settings import Settings

#: Seconds for which `reload` waits for the new code to be live, and between two requests.
RELOAD_SECONDS = 120.0
POLL_SECONDS = 0.25

app = typer.Typer(no_args_is_help=True, help="Commands for the agents of all nodes.")


@app.command()
def reload(json: Json = False) -> None:
    """Bring new agent code live on every node: it is tried first, and calls stay on the old code."""
    api = Api(Settings.load())
    answer = api.post("/api/agents/reload", {})
    deadline = time.monotonic() + RELOAD_SECONDS
    printed = ""
    while True:
        if not json and (text := _progress(answer)) != printed:
            console.print(text, soft_wrap=True)
            printed = text
        failed = bool(answer["failed"])
        if answer["done"] or failed or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
        try:
            answer = api.poll(f"/api/agents/reload/{answer['reloadId']}") or answer
        except NotFound as failure:
            raise OrchestratorError(failure.detail) from None
    if json:
        print_json(answer)
    if failed:
        raise OrchestratorError(f"not reloaded: {answer['message']}")
    if not answer["done"]:
        raise OrchestratorError(f"not live after {RELOAD_SECONDS:.0f} s; see orchestrator status")


def _progress(reload: dict[str, Any]) -> str:
    if reload["done"]:
        return str(reload["message"])
    text = ", ".join(f"{node}: {state}" for node, state in sorted(reload["nodes"].items()))
    return f"{text}; {reload['stale']} warm agents to replace" if reload["stale"] else text
