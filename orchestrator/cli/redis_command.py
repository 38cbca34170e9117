"""`orchestrator redis`: runs one command on the node's Redis, with the node's own address and password."""

import sys
from typing import Annotated

import typer

from orchestrator.settings import Settings
from orchestrator.store import console


def redis(words: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="As redis-cli takes it.")]) -> None:
    """Run one command on this node's Redis, as redis-cli would: orchestrator redis LLEN celery."""
    settings = Settings.load()
    for line in console.lines(console.run(settings.redis, words)):
        sys.stdout.write(line + "\n")
