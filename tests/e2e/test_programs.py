"""Programs in other languages as the agents of a whole node: `AGENT_COMMAND` starts them, and lines run their calls."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.call.caller import Call
from tests.support import hurt
from tests.support.node import REPOSITORY, Node
from tests.support.processes import alive, marked, poll
from tests.support.tools import tool
from tests.support.walk import walk

EXAMPLES = REPOSITORY / "examples"


def started(node: Node, user: str) -> dict[str, Any]:
    """Start a session; returns it when the program serves it."""
    poll(lambda: node.counts()["pool"] == 1, "the pool is full")
    return reaches(node, node.begin(user)["sessionId"], "active")


def reaches(node: Node, session_id: str, state: str) -> dict[str, Any]:
    """Return a session when it has this state."""
    return poll(lambda: (found := node.session(session_id))["status"] == state and found, f"it is {state}")


def taken_over(node: Node, session: dict[str, Any], times: int = 1) -> dict[str, Any]:
    """Return a session when another agent serves it."""
    session_id = session["sessionId"]
    poll(lambda: node.session(session_id)["takeovers"] == times, "another agent has taken over")
    return reaches(node, session_id, "active")


def program(session: dict[str, Any]) -> int:
    """Return the pid of the program beside the agent's process of a session."""
    agents = marked("AGENT_ID", session["agentId"])
    return next(pid for pid in agents if pid != session["agentPid"])


def log(node: Node, session: dict[str, Any], agent_id: str = "") -> str:
    """Return what the program of a session has printed."""
    return node.command("logs", agent_id or session["agentId"]).stdout


def goes(pid: int) -> None:
    """Wait for the end of a process."""
    poll(lambda: not alive(pid), "the process is gone")


def a_call_is_served_and_stopped(node: Node) -> None:
    session = started(node, "ada")
    assert session["prewarmed"]
    poll(lambda: "firstAudio" in node.session(session["sessionId"])["timings"], "its first sound is reported")
    pid = program(session)
    environment = psutil.Process(pid).environ()
    assert environment["LIVEKIT_URL"]
    assert "REDIS_URL" not in environment
    node.end(session["sessionId"])
    assert reaches(node, session["sessionId"], "ended")["reason"] == "stopped by request"
    goes(pid)
    poll(lambda: "[agent exited with code 0]" in log(node, session), "its log is complete")
    assert "stops: stopped by request" in log(node, session), log(node, session)
    assert "serves ada, takeovers: 0, turns until now: 0" in log(node, session)


def a_killed_program_is_replaced_with_the_conversation(node: Node) -> None:
    before = started(node, "bob")
    os.kill(program(before), signal.SIGKILL)
    after = taken_over(node, before)
    assert after["agentId"] != before["agentId"]
    assert "agent_lost: killed by signal 9" in str(after["events"])
    assert "serves bob, takeovers: 1, turns until now: 1" in log(node, after)
    goes(before["agentPid"])
    node.end(after["sessionId"])


def a_hung_program_is_replaced(node: Node) -> None:
    before = started(node, "cleo")
    hung = program(before)
    os.kill(hung, signal.SIGSTOP)
    after = taken_over(node, before)
    assert "its program answered no ping for 10 s" in str(after["events"])
    goes(hung)
    node.end(after["sessionId"])


def a_program_dies_with_its_agents_process(node: Node) -> None:
    before = started(node, "dan")
    orphan = program(before)
    os.kill(before["agentPid"], signal.SIGKILL)
    # The kernel does it, not the next search for strays.
    goes(orphan)
    node.end(taken_over(node, before)["sessionId"])


def a_warm_program_that_dies_is_replaced(node: Node) -> None:
    poll(lambda: node.counts()["pool"] == 1, "the pool is full")
    (agent,) = (each for each in node.agents() if each["status"] == "ready")
    pid = next(pid for pid in marked("AGENT_ID", agent["agentId"]) if pid != agent["pid"])
    os.kill(pid, signal.SIGKILL)
    poll(lambda: agent["agentId"] not in {each["agentId"] for each in node.agents()}, "the agent is gone")
    node.end(started(node, "eve")["sessionId"])


GO = [
    a_call_is_served_and_stopped,
    a_killed_program_is_replaced_with_the_conversation,
    a_hung_program_is_replaced,
    a_program_dies_with_its_agents_process,
    a_warm_program_that_dies_is_replaced,
]


@pytest.fixture
def go(short_folder: Path) -> Iterator[Node]:
    """A node whose agent is the example in Go."""
    tool("go", "https://go.dev/dl")
    folder = short_folder / "go"
    folder.mkdir()
    subprocess.run(["go", "build", "-o", folder / "agent-go", "."], cwd=EXAMPLES / "go", check=True)
    # The example only says what it would see in a room: LiveKit is not asked whether that is true.
    node = Node(folder, AGENT_COMMAND="./agent-go", POOL_TARGET=1, RECONCILE_SECONDS=3600)
    with node:
        yield node


@pytest.mark.timeout(300)
async def test_a_go_program(go: Node, subtests: pytest.Subtests) -> None:
    await walk(subtests, GO, go)
    programs = poll(lambda: [pid for pid in go.pids() if _name(pid) == "agent-go"], "a program is warm")
    go.stop()
    assert not any(map(alive, programs))


# The example in JavaScript, which joins its room.


@asynccontextmanager
async def talking(node: Node, user: str) -> AsyncIterator[Call]:
    """Make a call in which the agent is heard."""
    call = await hurt.talking(node, user)
    try:
        yield call
    finally:
        await call.hang_up()


async def javascript_echoes_its_user_and_is_stopped(node: Node) -> None:
    await asyncio.to_thread(poll, lambda: node.counts()["pool"] == 1, "the pool is full")
    async with Call(node.url, "jo") as call:
        await call.say("One two three.")
        assert await call.sound() > 0
        session = await asyncio.to_thread(reaches, node, call.session_id, "active")
        pid = program(session)
        await asyncio.to_thread(node.end, call.session_id)
        await call.gone()
    await asyncio.to_thread(goes, pid)
    assert "serves jo, takeovers: 0, turns until now: 0" in log(node, session)


async def a_killed_javascript_program_is_replaced_in_the_call(node: Node) -> None:
    await asyncio.to_thread(poll, lambda: node.counts()["pool"] == 1, "the pool is full")
    async with talking(node, "kim") as call:
        before = await asyncio.to_thread(reaches, node, call.session_id, "active")
        os.kill(program(before), signal.SIGKILL)
        after = await asyncio.to_thread(taken_over, node, before)
        await call.next_sound()
    assert "serves kim, takeovers: 1, turns until now: 1" in log(node, after)


async def a_user_who_leaves_frees_the_program(node: Node) -> None:
    await asyncio.to_thread(poll, lambda: node.counts()["pool"] == 1, "the pool is full")
    async with talking(node, "lou") as call:
        session = await asyncio.to_thread(reaches, node, call.session_id, "active")
        pid = program(session)
        await call.leave()
        ended = await asyncio.to_thread(reaches, node, call.session_id, "ended")
    assert ended["reason"] == "user was gone for 2 s"
    await asyncio.to_thread(goes, pid)


JAVASCRIPT = [
    javascript_echoes_its_user_and_is_stopped,
    a_killed_javascript_program_is_replaced_in_the_call,
    a_user_who_leaves_frees_the_program,
]


@pytest.fixture
def javascript(short_folder: Path) -> Iterator[Node]:
    """A node whose agent is the example in JavaScript."""
    installed = EXAMPLES / "node" / "node_modules"
    command = [tool("npm", "https://nodejs.org"), "ci", "--no-audit", "--no-fund", "--prefer-offline"]
    if not installed.exists():
        subprocess.run(command, cwd=installed.parent, check=True, timeout=200)
    folder = short_folder / "javascript"
    folder.mkdir()
    command = f"node {EXAMPLES}/node/agent.mjs"
    with Node(folder, AGENT_COMMAND=command, POOL_TARGET=1, USER_GONE_SECONDS=2) as node:
        yield node


@pytest.mark.timeout(500)
async def test_a_javascript_program(javascript: Node, subtests: pytest.Subtests) -> None:
    await walk(subtests, JAVASCRIPT, javascript)


def _name(pid: int) -> str:
    with suppress(psutil.Error):
        return psutil.Process(pid).name()
    return ""
