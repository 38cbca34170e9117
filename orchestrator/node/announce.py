"""Says on the terminal of `orchestrator up` when the node is up, where, and what to try; or that it is not.

A program that does not start is what supervise says.
"""

import ctypes
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from orchestrator.errors import StoreUnavailable
from orchestrator.machine.private import kept
from orchestrator.node import clients
from orchestrator.node.output import Terminal, styled
from orchestrator.settings import Settings

#: Seconds after which it says what is missing; the node goes on trying.
PATIENCE = 90.0
POLL = 0.2
#: Seconds after which a warning is no mere part of starting.
EARLY = 10.0


def main() -> None:
    """Wait for a full pool and say so."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # in a group of its own, where `stty tostop` would stop it
    console = Terminal(soft_wrap=True)
    settings = Settings.load()
    started, since = time.monotonic(), time.time()
    console.print(styled("Starting node ", (settings.node_id, "bold"), ": the first agent loads its models once …"))
    supervisor = os.getppid()
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # gone with supervisord, whatever it waits for
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    health: dict[str, Any] | None = None
    said: set[str] = set()
    token = settings.admin_token.get_secret_value() if settings.admin_token else ""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=settings.base_url, headers=headers, timeout=2, trust_env=False) as client:
        while time.monotonic() - started < PATIENCE:
            if os.getppid() != supervisor:
                return  # stopped before it was up
            up, health = look(client, settings.node_id, since)
            if up and health and _let_in(console, settings, said):
                _show_up(console, settings, health, time.monotonic() - started)
                return
            if time.monotonic() - started > EARLY:
                _warn(console, health, said)
            time.sleep(POLL)
    _warn(console, health, said)
    late = f"Not all up after {PATIENCE:.0f} s."
    console.print(styled((late, "bold red"), f" Logs: {settings.run_dir}/logs, or orchestrator doctor"))


def look(client: httpx.Client, node_id: str, since: float) -> tuple[bool, dict[str, Any] | None]:
    """Return whether the pool is full and this start of the node serves, and what its health route answers."""
    ready = _ready(client)  # asked first: until the store is set up, health tells a target of 0
    health = _health(client)
    if not ready or not health or "sessions" not in health:
        return False, health
    full = health["sessions"]["pool"] >= health["sessions"]["target"]
    return full and _node_up(health, node_id, since), health


def _warn(console: Terminal, health: dict[str, Any] | None, said: set[str]) -> None:
    """Print each warning once; one that counts seconds is the same one a moment later."""
    for warning in (health or {}).get("warnings", []) or filter(None, [(health or {}).get("detail")]):
        if (kind := re.sub(r"\d+", "", warning)) not in said:
            said.add(kind)
            console.print(styled((f"! {warning}", "yellow")))


def _health(client: httpx.Client) -> dict[str, Any] | None:
    try:
        answer = client.get("/api/health")
    except httpx.HTTPError:
        return None
    try:
        found: dict[str, Any] = answer.json()  # or a problem, which names what the node waits for
    except ValueError:
        return None
    return found


def _ready(client: httpx.Client) -> bool:
    # Where other nodes have filled the pool, this one has to have had an agent of its own.
    try:
        return client.get("/readyz").is_success
    except httpx.HTTPError:
        return False


def _let_in(console: Terminal, settings: Settings, said: set[str]) -> bool:
    """Return whether each kind of client gets into Redis; says why not."""
    try:
        refused = clients.refusal(settings)
    except StoreUnavailable:
        return False
    _warn(console, {"warnings": [refused] if refused else []}, said)
    return refused is None


def _node_up(health: dict[str, Any], node_id: str, since: float) -> bool:
    # A record from before this start may still be there, when the last one was cut off.
    node = health["nodes"].get(node_id, {})
    up = node.get("host") and node["lastBeat"] >= int(since)
    return bool(up and health["livekit"]["ok"])


def _show_up(console: Terminal, settings: Settings, health: dict[str, Any], seconds: float) -> None:
    sessions = health["sessions"]
    command = Path("/proc/self/cwd/.venv/bin/orchestrator")
    program = ".venv/bin/orchestrator" if command.exists() else "orchestrator"
    counts = f"{sessions['pool']} warm agents wait (target {sessions['target']}, at most {sessions['max']} sessions)."
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
        who = "anybody who reaches it" if settings.open_access else "anybody on this machine"
        console.print(f"  access       open: {who} may start calls; set API_KEYS to change that")
    where = ", and here" if settings.log_to == "stdout" else ""
    console.print(f"  logs         {settings.run_dir}/logs{where}")
    console.print("Try, in another terminal:")
    console.print(f'  {program} call --say "what time is it"')
    console.print(f"  {program} status")
    console.print("Ctrl-C stops everything.")


def _shown(settings: Settings, token: str) -> str:
    """Return the admin token for whoever sits at a terminal; elsewhere output is kept, and it is not for a log."""
    if sys.stdout.isatty():
        return token
    if token == kept(settings.secrets_file).get("ADMIN_TOKEN"):
        return f"in {settings.secrets_file}"
    return "as ADMIN_TOKEN says"


if __name__ == "__main__":
    main()
