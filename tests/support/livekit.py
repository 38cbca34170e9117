"""A LiveKit server and a Valkey that several nodes of a test share."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from orchestrator.node import livekit_server
from orchestrator.node.environment import LIVEKIT_YAML
from tests.support.processes import free_ports, poll, start_valkey, stop

KEY, SECRET = "testkey", "a-secret-of-the-tests-that-is-long-enough"


@contextlib.contextmanager
def server(folder: Path, *, auto_create: bool = True) -> Iterator[int]:
    """Run a server with its files in an empty folder; yields its port. `auto_create`: joining creates the room."""
    port = free_ports(3)
    text = LIVEKIT_YAML.format(port=port, tcp=port + 1, udp=port + 2, key=KEY, secret=SECRET)
    if not auto_create:
        text = text.replace("\nroom:\n", "\nroom:\n  auto_create: false\n")
    (folder / "livekit.yaml").write_text(text)
    with (folder / "log").open("wb") as log:
        command = [str(livekit_server.obtain()), "--config", str(folder / "livekit.yaml")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            poll(lambda: _answers(port), "LiveKit answers", 60)
            yield port
        finally:
            process.kill()  # on SIGTERM it would wait for its rooms to empty
            process.wait(60)


@contextlib.contextmanager
def shared(folder: Path) -> Iterator[dict[str, Any]]:
    """Run a LiveKit and a Valkey in a new folder; yields the settings of echo nodes that share them."""
    for name in ("redis", "livekit"):
        (folder / name).mkdir(parents=True)
    port = free_ports()
    with contextlib.ExitStack() as stack:
        stack.callback(stop, start_valkey(folder / "redis", port))
        media = stack.enter_context(server(folder / "livekit"))
        yield {
            "REDIS_URL": f"redis://127.0.0.1:{port}/0", "LIVEKIT_URL": f"ws://127.0.0.1:{media}",
            "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET, "ADMIN_TOKEN": "whoever-runs-all-of-them",
            "AGENT_MODULE": "agents/echo.py",
        }  # fmt: skip


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}", timeout=2).is_success
    except httpx.HTTPError:
        return False
