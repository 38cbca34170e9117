"""The command line: every command, in the order in which help lists them."""

from typing import Annotated, Any

import typer

from orchestrator.cli import agents, doctor
from orchestrator.cli.answer import shown_by
from orchestrator.cli.arguments import SessionId
from orchestrator.cli.explain import story
from orchestrator.cli.flower import flower
from orchestrator.cli.logs import logs
from orchestrator.cli.nodes import drain, nodes, undrain
from orchestrator.cli.redis_command import redis
from orchestrator.cli.restart import restart
from orchestrator.cli.status import breaker, pool, sessions, status
from orchestrator.node.api_client import Api
from orchestrator.node.output import FAILED, Json, console, print_json, styled
from orchestrator.node.up import up as start_node
from orchestrator.settings import Settings


def up() -> None:
    """Start this node in the foreground; Ctrl-C stops all of it."""
    start_node()


def _show_story(record: dict[str, Any]) -> None:
    for line in story(record):
        console.print(styled(line), soft_wrap=True)


@shown_by(_show_story)
def explain(session_id: SessionId) -> dict[str, Any]:
    """Explain a session: who asked for it, how it got its agent, what went wrong, how it ended."""
    return Api(Settings.load()).get(f"/api/session/{session_id}")


def _show_message(answer: dict[str, Any]) -> None:
    console.print(answer["message"])


@shown_by(_show_message)
def stop(session_id: SessionId) -> dict[str, Any]:
    """Stop a session."""
    return Api(Settings.load()).post("/api/session/stop", {"sessionId": session_id})


def diagnose(
    invariants: Annotated[
        bool, typer.Option("--invariants", help="Check whether records, agent host and processes agree instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Check this machine and the node's set-up, and say how to fix what is wrong."""
    healthy = _check_invariants(json) if invariants else _check_machine(json)
    if not healthy:
        raise typer.Exit(FAILED)


def _check_machine(json: bool) -> bool:
    checks = doctor.examine(Settings.load())
    if json:
        print_json([check.as_dict() for check in checks])
    for check in () if json else checks:
        mark = ("ok  ", "green") if check.ok else ("bad ", "red")
        console.print(styled(mark, f" {check.name:12} {check.found}"), soft_wrap=True)
        if check.remedy:
            console.print(f"     {'':12} → {check.remedy}", soft_wrap=True)
    return all(check.ok for check in checks)


def _check_invariants(json: bool) -> bool:
    violations = doctor.violations(Settings.load())
    if json:
        print_json(violations)
    for line in () if json else violations or ["clean"]:
        console.print(styled(line), soft_wrap=True)
    return not violations


def register(app: typer.Typer) -> None:
    """Add every command."""
    for command in (up, status, sessions, explain, logs, stop, pool, nodes, drain, undrain, breaker, restart):
        app.command()(command)
    app.command("doctor")(diagnose)
    app.command()(flower)
    app.command(context_settings={"ignore_unknown_options": True})(redis)
    app.add_typer(agents.app, name="agents")
