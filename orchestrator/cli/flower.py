"""`orchestrator flower`: Celery's monitor for a running node, on loopback by default, protected by the admin token."""

import importlib.util
import os
import sys
from typing import Annotated, NoReturn

import typer

from orchestrator.errors import Preflight
from orchestrator.node import ports, programs
from orchestrator.node.api_client import admin_token
from orchestrator.node.output import console
from orchestrator.settings import CHECKED, Settings

ADDRESS = "127.0.0.1"


def flower(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 5555,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = ADDRESS,
) -> NoReturn:
    """Start Flower, Celery's monitor, on this node's Redis. Needs the extra `flower`."""
    settings = Settings.load()
    if importlib.util.find_spec("flower") is None:
        raise Preflight("Flower is not installed: make flower.")
    token = admin_token(settings)
    if not token:
        raise Preflight(f"No admin token: set ADMIN_TOKEN, or start the node first ({settings.secrets_file} holds it).")
    if "," in token:
        raise Preflight("ADMIN_TOKEN contains a comma, at which Flower would cut it off: set one without.")
    if who := ports.holder(address, port):
        raise Preflight(f"port {port} is held by {who}: choose another with --port.")
    # Secrets go into the environment, which a list of processes does not show; Flower gets only those it needs.
    options = {name: value for name, value in os.environ.items() if name.startswith("FLOWER_")}
    environment = (
        programs.shared(os.environ)
        | options
        | {
            "REDIS_URL": settings.redis.url,
            CHECKED: "1",
            "FLOWER_BASIC_AUTH": f"admin:{token}",
            "FLOWER_ADDRESS": address,
            "FLOWER_PORT": str(port),
        }
    )
    console.print(f"Flower on http://{address}:{port} (user admin, password: the admin token). Ctrl-C ends it.")
    command = [sys.executable, "-m", "orchestrator.machine.sealed", "orchestrator.task_queue.command", "--quiet"]
    os.execve(sys.executable, [*command, "-A", "orchestrator.worker.tasks", "flower"], environment)
