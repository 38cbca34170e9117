"""`orchestrator nodes`, `drain` and `undrain`: the nodes that share this Redis."""

import time
from typing import Annotated, Any

import typer

from orchestrator.cli.answer import shown_by
from orchestrator.cli.arguments import NodeName
from orchestrator.errors import OrchestratorError
from orchestrator.node.api_client import Api
from orchestrator.node.output import Json, console, list_table, print_json, wide
from orchestrator.settings import Settings

#: Seconds between two requests of `drain --wait`.
POLL_SECONDS = 0.5
#: Seconds beyond DRAIN_SECONDS in which the calls of a drained node move to another node.
MOVE_SECONDS = 15.0


def _show_nodes(listing: dict[str, Any]) -> None:
    table = list_table("node", "state", "calls", "warm", "agents", "last report", "version")
    for row in listing["nodes"]:
        calls = f"{row['sessions']} of {row['most']}" if row["most"] else str(row["sessions"])
        report = "" if row["heard"] is None else f"{row['heard']:.0f} s ago"
        cells = (row["node"], _state(row), calls, str(row["warm"]), str(row["agents"]), report, row["version"] or "")
        table.add_row(*cells)
    wide.print(table)


def _state(node: dict[str, Any]) -> str:
    if node["draining"]:
        return "draining"
    if not node["host"]:
        return "agent host is down"
    return f"starts no agents: {node['short']}" if node["short"] else "in service"


@shown_by(_show_nodes)
def nodes() -> dict[str, Any]:
    """List the nodes that share this Redis, with their state, calls and warm agents."""
    return Api(Settings.load()).get("/api/nodes")


def drain(
    node: NodeName,
    wait: Annotated[bool, typer.Option("--wait", help="Return when its last call is over.")] = False,
    json: Json = False,
) -> None:
    """Drain a node: it takes no new calls; calls longer than DRAIN_SECONDS move to another node."""
    settings = Settings.load()
    api = Api(settings)
    answer = api.post(f"/api/nodes/{node}/drain", {})
    if not json:
        console.print(_progress(answer), soft_wrap=True)
    deadline = time.monotonic() + settings.drain_seconds + MOVE_SECONDS
    while wait and answer["sessions"] and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        before, answer = answer, api.poll(f"/api/nodes/{node}") or answer
        if not json and answer["sessions"] != before["sessions"]:
            console.print(_progress(answer), soft_wrap=True)
    if json:
        print_json(answer)
    if wait and answer["sessions"]:
        raise OrchestratorError(f"node {node} still has calls; see: orchestrator sessions")


def _progress(node: dict[str, Any]) -> str:
    calls = {0: "no call is left", 1: "1 call is left"}.get(node["sessions"], f"{node['sessions']} calls are left")
    return f"{node['node']} takes no new sessions; {calls}."


def _show_in_service(answer: dict[str, Any]) -> None:
    console.print(f"{answer['node']} is in service.")


@shown_by(_show_in_service)
def undrain(node: NodeName) -> dict[str, Any]:
    """Put a drained node back in service."""
    return Api(Settings.load()).post(f"/api/nodes/{node}/undrain", {})
