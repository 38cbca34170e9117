"""The commands that talk to a running node, `up` and `doctor`."""

import re
import time
from typing import Annotated, Any

import typer
from rich.table import Table

from orchestrator.cli import doctor as checks
from orchestrator.cli.explain import story
from orchestrator.cli.flower import flower
from orchestrator.cli.printed import logs
from orchestrator.cli.redis_command import redis
from orchestrator.errors import NotFound, OrchestratorError
from orchestrator.models import ID_PATTERN
from orchestrator.node.api_client import Api
from orchestrator.node.output import FAILED, Json, console, print_json, styled, wide
from orchestrator.node.restart import restart
from orchestrator.node.up import up as start_node
from orchestrator.settings import Settings

#: Seconds between two looks of `drain --wait`.
LOOK_SECONDS = 0.5
#: Seconds for which `agents reload` waits for new code to be live, and between two looks at it.
RELOAD_SECONDS = 120.0
RELOAD_LOOK_SECONDS = 0.25

#: Beyond DRAIN_SECONDS, the calls of a node that is emptied need so long to be elsewhere.
EMPTY_SECONDS = 15.0

#: A list is to be read and copied from: no lines are drawn around it.
_LIST: dict[str, Any] = {"box": None, "padding": (0, 2, 0, 0), "header_style": "bold"}


def _session_id(given: str) -> str:
    if not re.match(ID_PATTERN, given):
        raise NotFound(f"there is no session {given!r}: write its id in full, as `orchestrator sessions` shows it")
    return given


SessionArgument = Annotated[str, typer.Argument(metavar="ID", help="Session id.", callback=_session_id)]


def up() -> None:
    """Start this node in the foreground: Ctrl-C stops all of it."""
    start_node()


def status(json: Json = False) -> None:
    """Show the pool, the sessions and what is not as it should be."""
    health = Api(Settings.load()).get("/api/health")
    if json:
        print_json(health)
        return
    sessions = health["sessions"]
    color = "green" if health["status"] == "ok" else "yellow"
    console.print(styled((health["status"], f"bold {color}"), f"  version {health['version']}"))
    table = Table("", "", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("pool", f"{sessions['pool']} warm of {sessions['target']}, {sessions['booting']} booting")
    live = sessions["starting"] + sessions["ready"] + sessions["active"]
    table.add_row(
        "sessions",
        f"{live} of {sessions['max']}: {sessions['starting']} starting, {sessions['ready']} ready, "
        f"{sessions['active']} active",
    )
    table.add_row("line", f"{sessions['queued']} waiting")
    table.add_row("redis", f"{health['redis']['latencyMs']} ms")
    table.add_row("celery", f"{health['celery']['queue']} tasks waiting")
    table.add_row("nodes", ", ".join(health["nodes"]) or "none")
    stats = health["stats"]
    if stats.get("boot_ms_mean"):
        table.add_row("boot", f"{stats['boot_ms_mean']:.0f} ms (mean of the last ten)")
    table.add_row(
        "starts",
        f"{stats.get('total_hits', 0):.0f} hits, {stats.get('total_misses', 0):.0f} misses, "
        f"{stats.get('total_errors', 0):.0f} errors",
    )
    if health["breaker"]["state"] != "closed":
        table.add_row("breaker", _boots(health["breaker"]))
    if health.get("sizing"):
        table.add_row("sizing", health["sizing"])
    console.print(table)
    for warning in health["warnings"]:
        console.print(styled((f"! {warning}", "yellow")), soft_wrap=True)  # commands in it are copied


def sessions(json: Json = False) -> None:
    """List sessions and agents."""
    found = Api(Settings.load()).get("/api/sessions")
    if json:
        print_json(found)
        return
    table = Table("session", "status", "user", "agent pid", "created", "startup", "reason", **_LIST)
    for row in found["sessions"]:
        startup = "" if row.get("startupTime") is None else f"{row['startupTime']:.3f} s"
        cells = (row["sessionId"], row["status"], row["userId"], str(row.get("agentPid", "")))
        table.add_row(*cells, row["createdAt"][11:19], startup, row.get("reason", ""))
    wide.print(table)
    console.print()
    table = Table("agent", "status", "pid", "node", "private memory", "age", **_LIST)
    for row in found["agents"]:
        memory = f"{row['memory'] / 2**20:.0f} MiB" if row.get("memory") else ""
        table.add_row(
            row["agentId"], row["status"], str(row.get("pid", "")), row.get("node", ""), memory, f"{row['age']:.0f} s"
        )
    wide.print(table)


def explain(session_id: SessionArgument, json: Json = False) -> None:
    """Tell what happened in a session: who asked, how it got its agent, what went wrong, how it ended."""
    found = Api(Settings.load()).get(f"/api/session/{session_id}")
    if json:
        print_json(found)
        return
    for line in story(found):
        console.print(styled(line), soft_wrap=True)


def stop(session_id: SessionArgument, json: Json = False) -> None:
    """Stop a session."""
    answer = Api(Settings.load()).post("/api/session/stop", {"sessionId": session_id})
    if json:
        print_json(answer)
    else:
        console.print(answer["message"])


def pool(
    size: Annotated[int | None, typer.Argument(metavar="[N]", help="Warm agents to keep.", min=0, max=500)] = None,
    json: Json = False,
) -> None:
    """Show the pool, or resize it to N warm agents."""
    api = Api(Settings.load())
    answer: dict[str, Any]
    if size is None:
        found = api.get("/api/health")["sessions"]
        answer = {name: found[name] for name in ("pool", "booting", "target")}
        text = f"{found['pool']} warm of {found['target']}, {found['booting']} booting"
    else:
        answer = api.post("/api/pool/resize", {"size": size})
        text = answer["message"]
    if json:
        print_json(answer)
    else:
        console.print(text)


def nodes(json: Json = False) -> None:
    """List the nodes that share this Redis: their calls, their warm agents, and whether they take more."""
    found = Api(Settings.load()).get("/api/nodes")
    if json:
        print_json(found)
        return
    table = Table("node", "state", "calls", "warm", "agents", "heard", "version", **_LIST)
    for row in found["nodes"]:
        calls = f"{row['sessions']} of {row['most']}" if row["most"] else str(row["sessions"])
        heard = f"{row['heard']:.0f} s ago"
        cells = (row["node"], _state(row), calls, str(row["warm"]), str(row["agents"]), heard, row["version"] or "")
        table.add_row(*cells)
    wide.print(table)


def _state(node: dict[str, Any]) -> str:
    if node["draining"]:
        return "drains"
    if not node["host"]:
        return "has no agent host"
    return f"starts no agents: {node['short']}" if node["short"] else "in service"


NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="A name that `orchestrator nodes` lists.")]


def drain(
    node: NodeArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Return when its last call is over.")] = False,
    json: Json = False,
) -> None:
    """Empty a node: no new call begins there; those that last longer than DRAIN_SECONDS go on on another node."""
    settings = Settings.load()
    api = Api(settings)
    found = api.post(f"/api/nodes/{node}/drain", {})
    if not json:
        console.print(_left(found), soft_wrap=True)
    deadline = time.monotonic() + settings.drain_seconds + EMPTY_SECONDS
    while wait and found["sessions"] and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        before, found = found, api.look(f"/api/nodes/{node}") or found
        if not json and found["sessions"] != before["sessions"]:
            console.print(_left(found), soft_wrap=True)
    if json:
        print_json(found)
    if wait and found["sessions"]:
        raise OrchestratorError(f"node {node} still has calls; see: orchestrator sessions")


def undrain(node: NodeArgument, json: Json = False) -> None:
    """Put a node that was drained in service again."""
    found = Api(Settings.load()).post(f"/api/nodes/{node}/undrain", {})
    if json:
        print_json(found)
    else:
        console.print(f"{node} is in service.")


def _left(node: dict[str, Any]) -> str:
    calls = {0: "it is empty", 1: "1 call goes on"}.get(node["sessions"], f"{node['sessions']} calls go on")
    return f"{node['node']} takes no more sessions; {calls}."


def breaker(
    close: Annotated[bool, typer.Option("--close", help="Close it: agents are booted again at once.")] = False,
    json: Json = False,
) -> None:
    """Show whether agents boot, and close the breaker that holds boots back when they do not."""
    api = Api(Settings.load())
    found = api.post("/api/breaker/close", {}) if close else api.get("/api/health")["breaker"]
    if json:
        print_json(found)
    else:
        console.print(_boots(found), soft_wrap=True)
        if found.get("agentId"):
            console.print(f"See: orchestrator logs {found['agentId']}", soft_wrap=True)


def _boots(breaker: dict[str, Any]) -> str:
    if not breaker["failures"]:
        return f"{breaker['state']}: agents boot"
    boots = "1 failed boot" if breaker["failures"] == 1 else f"{breaker['failures']} failed boots"
    next_one = f"the next attempt is in {breaker['retryIn']:.0f} s" if breaker["retryIn"] else "one is being tried"
    return f"{breaker['state']} after {boots} ({breaker['cause']}); {next_one}"


agents = typer.Typer(no_args_is_help=True, help="What concerns the agents of all nodes: reload.")


@agents.command()
def reload(json: Json = False) -> None:
    """Bring new agent code live on every node: it is tried first, and calls go on on the old code."""
    api = Api(Settings.load())
    found = api.post("/api/agents/reload", {})
    deadline = time.monotonic() + RELOAD_SECONDS
    said = ""
    while True:
        if not json and (text := _progress(found)) != said:
            console.print(text, soft_wrap=True)
            said = text
        failed = any(state.startswith("failed") for state in found["nodes"].values())
        late = time.monotonic() > deadline
        if found["done"] or failed or late:
            break
        time.sleep(RELOAD_LOOK_SECONDS)
        try:
            found = api.look(f"/api/agents/reload/{found['reloadId']}") or found
        except NotFound as failure:
            raise OrchestratorError(failure.detail) from None
    if json:
        print_json(found)
    if failed:
        raise OrchestratorError(f"not reloaded: {found['message']}")
    if not found["done"]:
        raise OrchestratorError(f"not live after {RELOAD_SECONDS:.0f} s; see orchestrator status")


def _progress(reload: dict[str, Any]) -> str:
    if reload["done"]:
        return str(reload["message"])
    text = ", ".join(f"{node}: {state}" for node, state in sorted(reload["nodes"].items()))
    return f"{text}; {reload['stale']} warm agents to replace" if reload["stale"] else text


def doctor(
    invariants: Annotated[
        bool, typer.Option("--invariants", help="Look whether records, agent host and processes agree instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Look for what is wrong on this machine, and say how to mend it."""
    if invariants:
        _invariants(json)
        return
    findings = checks.examine(Settings.load())
    if json:
        print_json([finding.as_dict() for finding in findings])
    else:
        for finding in findings:
            mark = ("ok  ", "green") if finding.ok else ("bad ", "red")
            console.print(styled(mark, f" {finding.name:12} {finding.found}"), soft_wrap=True)
            if finding.mend:
                console.print(f"     {'':12} → {finding.mend}", soft_wrap=True)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(FAILED)


def _invariants(json: bool) -> None:
    found = checks.violations(Settings.load())
    if json:
        print_json(found)
    else:
        for line in found or ["clean"]:
            console.print(styled(line), soft_wrap=True)
    if found:
        raise typer.Exit(FAILED)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(up)
    for command in (
        status,
        sessions,
        explain,
        logs,
        stop,
        pool,
        nodes,
        drain,
        undrain,
        breaker,
        restart,
        doctor,
        flower,
    ):
        app.command()(command)
    app.command(context_settings={"ignore_unknown_options": True})(redis)
    app.add_typer(agents, name="agents")
