"""README.md and docs/ on a node: runs every fenced command that can be run here, and the README's agent."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support import documents, fenced
from tests.support.documents import REPOSITORY
from tests.support.fenced import Block
from tests.support.node import Node
from tests.support.page import build_page
from tests.support.processes import poll
from tests.support.spoken import A_TIME, Call
from tests.support.walk import Step, walk

BLOCKS = [block for block in fenced.blocks() if block.runs]
#: Ids of requests that the documents search for in the logs.
REQUESTS = ("0f7c2c1be2a44a5cb1c3a9d2a4e1f6b7", "trace-1")
#: The id of a session or an agent that a document uses as an example.
ID = re.compile(r"\b(prewarm|session)_[0-9a-f]{32}\b")


@pytest.fixture(scope="module")
def checkout(short_folder: Path) -> Path:
    """A reader's folder: this project without files of earlier nodes, and the agent of the README."""
    build_page()
    folder = short_folder / "clone"
    folder.mkdir()
    for entry in REPOSITORY.iterdir():
        if entry.name not in {".git", ".run", ".env", ".venv", ".venv-pipecat", "frontend"}:
            (folder / entry.name).symlink_to(entry)
    # The tests' virtual environment with a fresh stamp, so that make installs nothing into it.
    (folder / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (folder / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    (folder / ".venv/.installed").touch()
    # One of the commands writes the page there; the packages are only read.
    shutil.copytree(REPOSITORY / "frontend", folder / "frontend", ignore=shutil.ignore_patterns("node_modules"))
    (folder / "frontend/node_modules").symlink_to(REPOSITORY / "frontend/node_modules")
    (folder / "my_agent.py").write_text(agent_of_the_readme())
    return folder


def agent_of_the_readme() -> str:
    (text,) = (text for _, language, text in documents.blocks(REPOSITORY / "README.md") if language == "python")
    return text


@pytest.fixture(scope="module")
def node(checkout: Path) -> Iterator[Node]:
    """The node that the README's command starts, on free ports, with the node id in docs/deploy.md."""
    run_dir = checkout / ".run"
    run_dir.mkdir()
    found = Node(run_dir, NODE_ID="b", POOL_TARGET=2, LOG_FORMAT="json", USER_JOIN_SECONDS=600)
    del found.environment["PYTHONPATH"]  # readers do not set it: the agent is found in the working directory
    found.launch, found.folder = ["bash", "-c", fenced.START], checkout
    (checkout / ".curlrc").write_text(f'fail\nconnect-to = "localhost:8080:127.0.0.1:{found.environment["PORT"]}"\n')
    with found:
        yield found


@pytest.fixture(scope="module")
def session(node: Node) -> str:
    """A session on the node, and requests with the ids in the documents."""
    started = str(node.begin("documents")["sessionId"])
    for request in REQUESTS:
        node.http.get("/api/health", headers={"X-Request-Id": request})
    poll(lambda: all(request in node.log("api") for request in REQUESTS), "the requests are logged")
    poll(lambda: "webhook:" in node.command("redis", "HGETALL", "pool:stats").stdout, "LiveKit has sent a webhook")
    return started


def run(node: Node, checkout: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in the reader's folder, against a node."""
    environment = node.environment | {"CURL_HOME": str(checkout), "COLUMNS": "100"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment, cwd=checkout, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


async def every_command_works_as_it_is_printed(node: Node, checkout: Path, session: str, *, block: Block) -> None:
    done = run(node, checkout, ID.sub(session, "\n".join(block.runs)))
    assert done.returncode == 0, f"{block.runs}: {done.stdout}{done.stderr}"


async def the_agent_of_the_readme_talks(node: Node, *_: object) -> None:
    async with Call(node.url, "grace") as call:
        assert "help you" in await call.read()
        await call.ask("What time is it?", A_TIME)


def steps(*, speak: bool) -> list[Step]:
    """Return the steps of the blocks that need an agent with speech recognition, or of all others."""
    chosen = [block for block in BLOCKS if speak is any("--say" in line for line in block.lines)]
    return [partial(every_command_works_as_it_is_printed, block=block) for block in chosen]


@pytest.mark.timeout(500)
async def test_every_command_of_the_documents_works_as_it_is_printed(
    node: Node, checkout: Path, session: str, short_folder: Path, subtests: pytest.Subtests
) -> None:
    await walk(subtests, [*steps(speak=False), the_agent_of_the_readme_talks], node, checkout, session)
    folder = short_folder / "speaks"
    folder.mkdir()
    with Node(folder, POOL_TARGET=2) as speaks:
        await walk(subtests, steps(speak=True), speaks, checkout, session)
