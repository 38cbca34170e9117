"""Files that were written for LiveKit's own worker run as they are, on a whole node."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.call.caller import Call
from tests.support.node import Node
from tests.support.processes import alive, poll
from tests.support.walk import walk


async def _eventually(look: Any, what: str) -> Any:
    return await asyncio.to_thread(poll, look, what)


def _new(parent: Path) -> Path:
    folder = parent / str(len(list(parent.iterdir())))
    folder.mkdir()
    return folder


async def _ask(call: Call, method: str) -> Any:
    agent = await asyncio.shield(call._agent)
    answer = await call._room.local_participant.perform_rpc(
        destination_identity=agent.identity, method=method, payload="", response_timeout=20
    )
    return json.loads(answer) if answer else None


def _over(node: Node, session_id: str) -> dict[str, Any]:
    return poll(
        lambda: (found := node.session(session_id))["status"] in {"ended", "error"} and found, "the session is over"
    )


async def _ended_by_agent(node: Node, session_id: str) -> dict[str, Any]:
    over = await asyncio.to_thread(_over, node, session_id)
    assert (over["status"], over["reasonCode"]) == ("ended", "agent_ended_call")
    return over


async def the_job_context_is_livekits(node: Node, parent: Path) -> None:
    folder = _new(parent)
    async with Call(node.url, "ada", metadata={"folder": str(folder), "plan": "gold"}) as call:
        assert "unchanged" in (await call.heard()).text().lower()
        facts = await _ask(call, "ask")
        session = node.session(call.session_id)
        room = session["roomName"]
        assert facts["jobId"] == call.session_id
        assert json.loads(facts["metadata"]) == {"folder": str(folder), "plan": "gold"}
        assert facts["attributes"]["orchestrator.userId"] == "ada"
        assert facts["agentName"] == "unchanged"
        assert facts["roomSid"].startswith("RM_")
        assert facts["identity"] == f"agent-{room}"
        assert f"agent-{room}" in facts["participants"]
        assert facts["warmedBefore"], "prewarm ran before the fork"
        assert facts["setAtImport"] == "yes"
        assert facts["secret"] is None
        for refused in ("allRooms", "ownToken"):
            assert "an agent here has a token for its own room" in facts[refused]
        assert facts["history"] == ["Hello from an unchanged agent."]
        agent = await asyncio.shield(call._agent)
        assert (agent.name, agent.attributes["speaks"]) == ("Unchanged", "English")
        assert f"room={room}" in "\n".join(node.logs(call.session_id))
    over = await asyncio.to_thread(_over, node, call.session_id)
    assert over["status"] == "ended"


async def work_after_the_call_is_finished_and_blocks_nobody(node: Node, parent: Path) -> None:
    folder = _new(parent)
    async with Call(node.url, "grace", metadata={"folder": str(folder)}) as call:
        await call.heard()
        agent = node.session(call.session_id)["agentPid"]
        await _ask(call, "shut_down")
        await call.gone()
    over = await _ended_by_agent(node, call.session_id)
    assert "enough said" in over["reason"]
    await _eventually((folder / "saving").exists, "the agent works after its call")
    # The seat is free at once: this node has one.
    second = await asyncio.to_thread(node.begin, "hopper", metadata={"folder": str(folder)})
    assert second["status"] != "queued"
    await asyncio.to_thread(node.end, second["sessionId"])
    # Longer than an agent has that does not leave when it is asked to: see docs/states.md, `stop`.
    assert alive(agent)
    assert json.loads((folder / "report.json").read_text()) == ["Hello from an unchanged agent."]
    (folder / "release").touch()
    await _eventually((folder / "saved.json").exists, "the shutdown callback has saved")
    await _eventually(lambda: not alive(agent), "the agent's process has ended")


async def a_call_that_is_taken_over_goes_on_with_its_words(node: Node, parent: Path) -> None:
    folder = _new(parent)
    (folder / "release").touch()
    async with Call(node.url, "alan", metadata={"folder": str(folder)}) as call:
        await call.heard()
        await call.say("My name is Alan")
        await call.heard()
        first = node.session(call.session_id)
        os.kill(first["agentPid"], signal.SIGKILL)
        after = await _eventually(
            lambda: (found := node.session(call.session_id))["agentPid"] not in {None, first["agentPid"]}
            and found["status"] == "active" and found,
            "another agent is in the call",
        )  # fmt: skip
        assert after["takeovers"] == 1
        await call.heard()
        history = (await _ask(call, "ask"))["history"]
        assert history[0] == "Hello from an unchanged agent."
        assert "alan" in history[1].lower()
        await _ask(call, "delete_room")
        await call.gone()
    await _ended_by_agent(node, call.session_id)


async def livekits_tool_ends_the_call(node: Node, parent: Path) -> None:
    folder = _new(parent)
    (folder / "release").touch()
    async with Call(node.url, "alonzo", metadata={"folder": str(folder)}) as call:
        await call.heard()
        await call.say("goodbye")
        await call.gone()
    await _ended_by_agent(node, call.session_id)


async def an_agent_of_worker_options_joins(node: Node) -> None:
    async with Call(node.url, "ada") as call:
        agent = await asyncio.shield(call._agent)
        await _eventually(lambda: agent.attributes.get("greeting") == "hello", "the agent says hello")


async def a_session_function_that_fails_ends_the_call_with_its_error(node: Node) -> None:
    session = await asyncio.to_thread(node.begin, "grace", metadata={"do": "fail"})
    over = await asyncio.to_thread(_over, node, session["sessionId"])
    assert (over["status"], over["reasonCode"]) == ("error", "agent_error")
    assert "RuntimeError: this agent fails" in over["reason"]


async def a_job_that_ends_before_it_connects_ends_the_call(node: Node) -> None:
    session = await asyncio.to_thread(node.begin, "hopper", metadata={"do": "leave"})
    over = await _ended_by_agent(node, session["sessionId"])
    assert over["replacements"] == 0


@pytest.mark.timeout(300)
async def test_a_file_for_livekits_worker_runs_unchanged(
    short_folder: Path, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    steps = [
        the_job_context_is_livekits,
        work_after_the_call_is_finished_and_blocks_nobody,
        a_call_that_is_taken_over_goes_on_with_its_words,
        livekits_tool_ends_the_call,
    ]
    with Node(short_folder, AGENT_MODULE="tests/unchanged/server.py", POOL_TARGET=2, MAX_SESSIONS=1) as node:
        await walk(subtests, steps, node, tmp_path)


@pytest.mark.timeout(200)
async def test_worker_options_run_unchanged(short_folder: Path, subtests: pytest.Subtests) -> None:
    steps = [
        an_agent_of_worker_options_joins,
        a_session_function_that_fails_ends_the_call_with_its_error,
        a_job_that_ends_before_it_connects_ends_the_call,
    ]
    with Node(short_folder, AGENT_MODULE="tests/unchanged/options.py", POOL_TARGET=2) as node:
        await walk(subtests, steps, node)
