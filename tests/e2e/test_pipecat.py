"""A Pipecat bot, as its author wrote it, as the agent of a whole node."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.call.caller import Call
from tests.support import hurt
from tests.support.node import REPOSITORY, Node
from tests.support.processes import alive, marked, poll
from tests.support.walk import walk

PYTHON = REPOSITORY / ".venv-pipecat/bin/python"
RUNNER = REPOSITORY / "agent_runtime/pipecat_runner"
BOT = REPOSITORY / "tests/support/pipecat_bots/for_daily.py"


async def _eventually(look: Any, what: str) -> Any:
    return await asyncio.to_thread(poll, look, what)


@asynccontextmanager
async def greeted(node: Node, user: str) -> AsyncIterator[Call]:
    """Make a call in which the bot is heard."""
    await _eventually(lambda: node.counts()["pool"] == 1, "the pool is full")
    async with Call(node.url, user, metadata={"customer": user}, patience=60) as call:
        assert await call.sound() > 0
        yield call


async def say(call: Call, words: str) -> None:
    """Say something to the bot's recogniser, which reads it."""
    await call._room.local_participant.publish_data(json.dumps({"say": words}))


def context(node: Node, agent_id: str) -> list[dict[str, str]]:
    """Return the newest conversation that a bot's model was given."""
    given = [line for line in node.command("logs", agent_id).stdout.splitlines() if "the context is " in line]
    return json.loads(given[-1].partition("the context is ")[2]) if given else []


def of_user(node: Node, agent_id: str) -> list[str]:
    """Return what the user has said, as a bot's model knows it."""
    return [turn["content"] for turn in context(node, agent_id) if turn["role"] == "user"]


def program(session: dict[str, Any]) -> int:
    """Return the pid of the bot beside the agent's process of a session."""
    agents = marked("AGENT_ID", session["agentId"])
    return next(pid for pid in agents if pid != session["agentPid"])


def active(node: Node, session_id: str, takeovers: int = 0) -> dict[str, Any]:
    """Return a session when an agent serves it after so many takeovers."""

    def found() -> dict[str, Any] | None:
        session = node.session(session_id)
        return session if (session["status"], session["takeovers"]) == ("active", takeovers) else None

    return poll(found, "it is active")


async def a_bot_greets_answers_and_is_stopped(node: Node) -> None:
    async with greeted(node, "ada") as call:
        session = await asyncio.to_thread(active, node, call.session_id)
        bot = program(session)
        assert session["prewarmed"]
        await _eventually(lambda: "firstAudio" in node.session(call.session_id)["timings"], "its sound is reported")
        await say(call, "blue")
        await _eventually(lambda: of_user(node, session["agentId"]) == ["blue"], "it has heard the user")
        await asyncio.to_thread(node.end, call.session_id)
        await call.gone()
    await _eventually(lambda: not alive(bot) and not alive(session["agentPid"]), "its processes are gone")
    log = node.command("logs", session["agentId"]).stdout
    assert "saved the call of ada" in log, log
    assert "[agent exited with code 0]" in log, log


async def a_killed_bot_is_replaced_and_knows_what_was_said(node: Node) -> None:
    async with greeted(node, "bob") as call:
        before = await asyncio.to_thread(active, node, call.session_id)
        await say(call, "blue")
        await _eventually(lambda: of_user(node, before["agentId"]) == ["blue"], "it has heard the user")
        with hurt.connected(node) as raw:
            key = f"session:{call.session_id}:conversation"
            await _eventually(lambda: "You said blue." in str(raw.lrange(key, 0, -1)), "its turns are kept")
        os.kill(program(before), signal.SIGKILL)
        after = await asyncio.to_thread(active, node, call.session_id, 1)
        assert after["agentId"] != before["agentId"]
        assert "agent_lost: killed by signal 9" in str(after["events"])
        await _eventually(lambda: of_user(node, after["agentId"]) == ["blue"], "it knows what was said")
        await say(call, "green")
        await _eventually(lambda: of_user(node, after["agentId"]) == ["blue", "green"], "it hears the user")
        roles = [turn["role"] for turn in context(node, after["agentId"])]
        assert roles.count("assistant") >= 1, roles
        bot = program(after)
        await asyncio.to_thread(node.end, call.session_id)
        await call.gone()
    await _eventually(lambda: not alive(bot) and not alive(before["agentPid"]), "its processes are gone")


async def a_caller_who_leaves_ends_the_call_and_the_bot(node: Node) -> None:
    async with greeted(node, "cleo") as call:
        session = await asyncio.to_thread(active, node, call.session_id)
        bot = program(session)
        await call.leave()
        await _eventually(lambda: node.session(call.session_id)["status"] == "ended", "it is over")
    await _eventually(lambda: not alive(bot), "the bot is gone")
    assert "saved the call of cleo" in node.command("logs", session["agentId"]).stdout


STEPS = [
    a_bot_greets_answers_and_is_stopped,
    a_killed_bot_is_replaced_and_knows_what_was_said,
    a_caller_who_leaves_ends_the_call_and_the_bot,
]


@pytest.fixture
def node(short_folder: Path) -> Iterator[Node]:
    """A node whose agent is a Pipecat bot."""
    folder = short_folder / "pipecat"
    folder.mkdir()
    command = f"{PYTHON} {RUNNER} {BOT}"
    with Node(folder, AGENT_COMMAND=command, POOL_TARGET=1, USER_GONE_SECONDS=2, BOOT_TIMEOUT_SECONDS=120) as node:
        yield node


@pytest.mark.timeout(500)
async def test_a_pipecat_bot(node: Node, subtests: pytest.Subtests) -> None:
    await walk(subtests, STEPS, node)
    node.stop()
    assert not node.pids()
