"""Prints on the terminal of `orchestrator up` when the node is up, its addresses and what to try, or that it is not up.

The supervisor reports programs that do not start.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx

from orchestrator.errors import StoreUnavailable
from orchestrator.machine.private import load_or_empty
from orchestrator.node import clients
from orchestrator.node.output import Terminal, styled
from orchestrator.reasons import Subject, warning_subject
from orchestrator.settings import Settings

#: Seconds after which it prints that the node is not up yet. It goes on as the node does, and ends with it, or when
#: nobody expects an answer any more.
PATIENCE, GIVE_UP = 90.0, 3600.0
POLL = 0.2
#: Seconds for one answer: on a busy machine each request that is given up is still answered, and delays the next one.
ANSWER = 15.0
#: Seconds for which warnings are normal parts of a start.
EARLY = 10.0


def main() -> None:
    """Wait for a full pool and print that the node is up."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # `stty tostop` would stop a background process group
    console = Terminal(soft_wrap=True)
    settings = Settings.load()
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # ends with supervisord, whatever it waits for
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    token = settings.admin_token.get_secret_value() if settings.admin_token else ""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=settings.base_url, headers=headers, timeout=ANSWER, trust_env=False) as client:
        follow(client, settings, console)


def follow(client: httpx.Client, settings: Settings, console: Terminal) -> None:
    """Print what keeps the node from being up, that it is late, and that it is up. Ends with the parent process."""
    started, since, supervisor = time.monotonic(), time.time(), os.getppid()
    console.print(styled("Starting node ", (settings.node_id, "bold"), ": the first agent loads its models once …"))
    printed: set[Subject] = set()
    late = False
    while (waited := time.monotonic() - started) < GIVE_UP:
        if os.getppid() != supervisor:
            return  # stopped before it was up
        up, health = poll(client, settings.node_id, since)
        if up and health and _clients_connect(console, settings, printed):
            _show_up(console, settings, health, time.monotonic() - started)
            return
        if waited > EARLY:
            _warn(console, found_warnings(health or {}), printed)
        if waited > PATIENCE and not late:
            late = True
            text = f" Logs: {settings.run_dir}/logs, or orchestrator doctor. Still waiting."
            console.print(styled((f"Not all up after {PATIENCE:.0f} s.", "bold red"), text))
        time.sleep(POLL)


def poll(client: httpx.Client, node_id: str, since: float) -> tuple[bool, dict[str, Any] | None]:
    """Return whether the node is up since this start, with a full pool; and the answer of its health route."""
    ready = _ready(client)  # read first: until the store is set up, health reports a target of 0
    health = _health(client)
    if not ready or not health or "sessions" not in health:
        return False, health
    full = health["sessions"]["pool"] >= health["sessions"]["target"]
    return full and _node_up(health, node_id, since), health


def found_warnings(health: dict[str, Any]) -> Iterator[tuple[Subject, str]]:
    """Yield what each warning of an answer of the health route is about, and its sentence.

    An answer that is a problem is one warning, its `detail`.
    """
    subjects = [warning_subject(each["code"], each["params"]) for each in health.get("warningCodes", [])]
    if "detail" in health:
        yield ("problem", health.get("code"), *(part for subject in subjects for part in subject)), health["detail"]
    else:
        yield from zip(subjects, health.get("warnings", []), strict=False)


def _warn(console: Terminal, found: Iterable[tuple[Subject, str]], printed: set[Subject]) -> None:
    """Print each warning once, though a number or a cause in its sentence has changed meanwhile."""
    for subject, sentence in found:
        if subject not in printed:
            printed.add(subject)
            console.print(styled((f"! {sentence}", "yellow")))


def _health(client: httpx.Client) -> dict[str, Any] | None:
    try:
        answer = client.get("/api/health")
    except httpx.HTTPError:
        return None
    try:
        health: dict[str, Any] = answer.json()  # or a problem, whose detail says what the node waits for
    except ValueError:
        return None
    return health


def _ready(client: httpx.Client) -> bool:
    # Other nodes may have filled the pool: ready means that this node has had a warm agent.
    try:
        return client.get("/readyz").is_success
    except httpx.HTTPError:
        return False


def _clients_connect(console: Terminal, settings: Settings, printed: set[Subject]) -> bool:
    """Return whether each Redis client can connect; prints why not."""
    try:
        refused = clients.refusal(settings)
    except StoreUnavailable:
        return False
    _warn(console, [(refused.subject, str(refused))] if refused else [], printed)
    return refused is None


def _node_up(health: dict[str, Any], node_id: str, since: float) -> bool:
    # After a crash the record from before this start may still exist.
    node = health["nodes"].get(node_id, {})
    up = node.get("host") and node["lastBeat"] >= int(since)
    return bool(up and health["livekit"]["ok"])


def _show_up(console: Terminal, settings: Settings, health: dict[str, Any], seconds: float) -> None:
    sessions = health["sessions"]
    command = Path("/proc/self/cwd/.venv/bin/orchestrator")
    program = ".venv/bin/orchestrator" if command.exists() else "orchestrator"
    counts = f"{sessions['pool']} warm agents (target {sessions['target']}), at most {sessions['max']} sessions."
    console.print(styled(("Up", "bold green"), f" after {seconds:.1f} s: {counts}"))
    if (settings.frontend_dir / "index.html").exists():
        console.print(f"  Talk         {settings.page_url}   (open it in a browser)")
    else:
        console.print("  Talk         its page is not built: make frontend (Node 20.19 or later)")
    console.print(f"  api          {settings.base_url}   (docs at /docs)")
    console.print(f"  LiveKit      {settings.livekit_url}")
    console.print(f"  Redis        {settings.redis}")
    if settings.admin_token:
        console.print(f"  admin token  {_shown(settings, settings.admin_token.get_secret_value())}")
    if health["access"] == "open":
        callers = "anybody who can reach it" if settings.open_access else "anybody on this machine"
        console.print(f"  access       open: {callers} may start calls; set API_KEYS to change that")
    copied = ", and here" if settings.log_to == "stdout" else ""
    console.print(f"  logs         {settings.run_dir}/logs{copied}")
    console.print("Try, in another terminal:")
    console.print(f'  {program} call --say "what time is it"')
    console.print(f"  {program} status")
    console.print("Ctrl-C stops everything.")


def _shown(settings: Settings, token: str) -> str:
    """Return the admin token on a terminal, else where to find it: a log must not contain it."""
    if sys.stdout.isatty():
        return token
    if token == load_or_empty(settings.secrets_file).get("ADMIN_TOKEN"):
        return f"in {settings.secrets_file}"
    return "from ADMIN_TOKEN"


if __name__ == "__main__":
    main()
