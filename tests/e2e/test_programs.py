"""A program in another language as the agent of a whole node: `AGENT_COMMAND` starts it, and lines run its calls."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.node import REPOSITORY, Node
from tests.support.processes import marked, poll

pytestmark = pytest.mark.skipif(not shutil.which("go"), reason="there is no Go")


@pytest.fixture(scope="module")
def node(short_folder: Path) -> Iterator[Node]:
    folder = short_folder / "go"
    folder.mkdir()
    subprocess.run(["go", "build", "-o", folder / "agent-go", "."], cwd=REPOSITORY / "examples" / "go", check=True)
    # The skeleton says what it would see in a room. LiveKit is not asked whether that is true.
    with Node(folder, AGENT_COMMAND="./agent-go", POOL_TARGET=1, RECONCILE_SECONDS=3600) as node:
        yield node


def program(node: Node, agent_id: str) -> psutil.Process:
    """Return the program beside an agent's process."""
    marks = marked("AGENT_ID", agent_id)
    return next(each for each in map(psutil.Process, marks) if each.name() == "agent-go")


def reaches(node: Node, session_id: str, state: str) -> dict[str, object]:
    return poll(lambda: (found := node.session(session_id))["status"] == state and found, f"it is {state}")


def test_thin(node: Node) -> None:
    poll(lambda: node.counts()["pool"] == 1, "the pool is full")
    started = node.begin("ada")
    session = reaches(node, started["sessionId"], "active")
    print(session, node.logs(started["sessionId"]))
    node.end(started["sessionId"])
    print(reaches(node, started["sessionId"], "ended"))
    print(node.logs(started["sessionId"]))
