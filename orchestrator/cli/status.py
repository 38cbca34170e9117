"""`orchestrator status`, `sessions`, `pool` and `breaker`: the state of the orchestrator."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.table import Table

from orchestrator.cli.answer import shown_by
from orchestrator.node.api_client import Api
from orchestrator.node.output import console, list_table, styled, wide
from orchestrator.settings import Settings


def _show_status(health: dict[str, Any]) -> None:
    color = "green" if health["status"] == "ok" else "yellow"
    console.print(styled((health["status"], f"bold {color}"), f"  version {health['version']}"))
    table = Table("", "", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, text in _status_rows(health):
        table.add_row(name, text)
    console.print(table)
    for warning in health["warnings"]:
        console.print(styled((f"! {warning}", "yellow")), soft_wrap=True)  # a warning may name a command to copy


def _status_rows(health: dict[str, Any]) -> Iterator[tuple[str, str]]:
    sessions, stats = health["sessions"], health["stats"]
    starting, ready, active = sessions["starting"], sessions["ready"], sessions["active"]
    yield "pool", _pool_text(sessions)
    yield (
        "sessions",
        f"{starting + ready + active} of {sessions['max']}: {starting} starting, {ready} ready, {active} active",
    )
    yield "line", f"{sessions['queued']} waiting"
    yield "redis", f"{health['redis']['latencyMs']} ms"
    yield "celery", f"{health['celery']['queue']} tasks waiting"
    yield "nodes", ", ".join(health["nodes"]) or "none"
    if stats.get("boot_ms_mean"):
        yield "boot", f"{stats['boot_ms_mean']:.0f} ms (mean of the last ten)"
    hits, misses, failures = (stats.get(f"total_{kind}", 0) for kind in ("hits", "misses", "errors"))
    yield "starts", f"{hits:.0f} hits, {misses:.0f} misses, {failures:.0f} errors"
    if health["breaker"]["state"] != "closed":
        yield "breaker", _breaker_text(health["breaker"])
    if health.get("sizing"):
        yield "sizing", health["sizing"]


def _pool_text(sessions: dict[str, Any]) -> str:
    return f"{sessions['pool']} warm of {sessions['target']}, {sessions['booting']} booting"


def _breaker_text(breaker: dict[str, Any]) -> str:
    if not breaker["failures"]:
        return f"{breaker['state']}: agents boot"
    boots = "1 failed boot" if breaker["failures"] == 1 else f"{breaker['failures']} failed boots"
    attempt = f"the next attempt is in {breaker['retryIn']:.0f} s" if breaker["retryIn"] else "an attempt is running"
    return f"{breaker['state']} after {boots} ({breaker['cause']}); {attempt}"


@shown_by(_show_status)
def status() -> dict[str, Any]:
    """Show the pool, the sessions and every warning."""
    return Api(Settings.load()).get("/api/health")


def _show_sessions(listing: dict[str, Any]) -> None:
    table = list_table("session", "status", "user", "agent pid", "created", "startup", "reason")
    for row in listing["sessions"]:
        startup = "" if row.get("startupTime") is None else f"{row['startupTime']:.3f} s"
        cells = (row["sessionId"], row["status"], row["userId"], str(row.get("agentPid", "")))
        table.add_row(*cells, row["createdAt"][11:19], startup, row.get("reason", ""))
    wide.print(table)
    console.print()
    table = list_table("agent", "status", "pid", "node", "private memory", "age")
    for row in listing["agents"]:
        memory = f"{row['memory'] / 2**20:.0f} MiB" if row.get("memory") else ""
        cells = (row["agentId"], row["status"], str(row.get("pid", "")), row.get("node", ""))
        table.add_row(*cells, memory, f"{row['age']:.0f} s")
    wide.print(table)


@shown_by(_show_sessions)
def sessions() -> dict[str, Any]:
    """List sessions and agents."""
    return Api(Settings.load()).get("/api/sessions")


def _show_pool(answer: dict[str, Any]) -> None:
    console.print(answer.get("message") or _pool_text(answer))


@shown_by(_show_pool)
def pool(
    size: Annotated[int | None, typer.Argument(metavar="[N]", help="Warm agents to keep.", min=0, max=500)] = None,
) -> dict[str, Any]:
    """Show the pool, or resize it to N warm agents."""
    api = Api(Settings.load())
    if size is not None:
        return api.post("/api/pool/resize", {"size": size})
    counts = api.get("/api/health")["sessions"]
    return {name: counts[name] for name in ("pool", "booting", "target")}


def _show_breaker(answer: dict[str, Any]) -> None:
    console.print(_breaker_text(answer), soft_wrap=True)
    if answer.get("agentId"):
        console.print(f"See: orchestrator logs {answer['agentId']}", soft_wrap=True)


@shown_by(_show_breaker)
def breaker(
    close: Annotated[bool, typer.Option("--close", help="Close it: agents boot again at once.")] = False,
) -> dict[str, Any]:
    """Show whether agents boot; close the breaker that pauses boots after failures."""
    api = Api(Settings.load())
    answer: dict[str, Any] = api.post("/api/breaker/close", {}) if close else api.get("/api/health")["breaker"]
    return answer
