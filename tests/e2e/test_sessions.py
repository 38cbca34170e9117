"""How sessions begin and end: on a node of light agents."""

import asyncio
import os
import re
import signal
import time
from typing import Any

import pytest
import redis
from livekit import api

from agents.caller import Call
from tests.support.node import Node
from tests.support.processes import alive, poll


async def rooms(node: Node) -> set[str]:
    """Return the rooms that exist on the node's LiveKit server."""
    url = f"http://127.0.0.1:{node.environment['LIVEKIT_PORT']}"
    secrets = node.secrets
    async with api.LiveKitAPI(url, secrets["LIVEKIT_API_KEY"], secrets["LIVEKIT_API_SECRET"]) as client:
        return {room.name for room in (await client.room.list_rooms(api.ListRoomsRequest())).rooms}


async def room_is_gone(node: Node, room: str) -> None:
    """Wait until a room does not exist any more."""
    deadline = time.monotonic() + 20
    while room in await rooms(node):
        assert time.monotonic() < deadline, "the room outlives its session"


def state(node: Node, session_id: str, *wanted: str) -> dict[str, Any]:
    """Wait until a session is in one of some states."""
    look = lambda: (found := node.session(session_id))["status"] in wanted and found  # noqa: E731
    return poll(look, f"{session_id} is {' or '.join(wanted)}")


async def test_echo_hears_itself_and_stop_clears_up(echo_node: Node) -> None:
    async with Call(echo_node.url, "echo") as call:
        await call.say("One two three.")
        assert await call.sound() > 0
        session = await call.look()
        assert session["roomName"] in await rooms(echo_node)
        stopped = await asyncio.to_thread(echo_node.end, call.session_id)
        assert stopped == {
            "success": True, "sessionId": call.session_id, "status": "ended", "message": "The session is stopped.",
        }  # fmt: skip
        await call.gone()
        poll(lambda: not alive(session["agentPid"]), "the agent is gone")
        again = await asyncio.to_thread(echo_node.end, call.session_id)
        assert again["success"] is True
        assert "already" in again["message"]
    await room_is_gone(echo_node, session["roomName"])


async def test_a_closed_tab_frees_the_agent(echo_node: Node) -> None:
    call = Call(echo_node.url, "tab")
    async with call:
        # In the middle of a call: who leaves while still connecting is known to be gone only by LiveKit's time-outs.
        await call.say("One two three.")
        await call.sound()
        session = await call.look()
        await call.leave()
        ended = await asyncio.to_thread(state, echo_node, call.session_id, "ended")
    assert ended["reason"] == "user was gone for 2 s"
    poll(lambda: not alive(session["agentPid"]), "the agent is gone")
    await room_is_gone(echo_node, session["roomName"])


def test_the_same_user_gets_the_same_session(echo_node: Node) -> None:
    first = echo_node.begin("twice")
    again = echo_node.begin("twice", first["clientSecret"])
    assert first["sessionId"] == again["sessionId"]
    assert "already" in again["message"]
    echo_node.end(first["sessionId"])


def test_ten_at_once_on_an_empty_pool_are_all_served(echo_node: Node) -> None:
    echo_node.resize(0)
    try:
        answers = [echo_node.begin(f"crowd{n}") for n in range(10)]
        assert {answer["status"] for answer in answers} == {"starting"}
        sessions = [state(echo_node, answer["sessionId"], "ready", "active", "error") for answer in answers]
        assert {session["status"] for session in sessions} <= {"ready", "active"}
        assert len({session["agentPid"] for session in sessions}) == 10
        for answer in answers:
            echo_node.end(answer["sessionId"])
        poll(lambda: not [s for s in sessions if alive(s["agentPid"])], "all are gone")
        poll(lambda: echo_node.counts()["agents"] == 0, "nothing was spawned that nobody needs")
    finally:
        echo_node.resize(2)


def test_nobody_is_handed_a_dead_agent(echo_node: Node) -> None:
    echo_node.resize(1)
    try:
        for attempt in range(10):
            (warm,) = poll(
                lambda: [agent for agent in echo_node.agents() if agent["status"] == "ready" and agent["pid"]],
                "a warm agent",
            )
            os.kill(warm["pid"], signal.SIGKILL)
            started = echo_node.begin(f"corpse{attempt}")
            session = state(echo_node, started["sessionId"], "ready", "active", "error")
            assert session["status"] != "error"
            assert session["agentPid"] != warm["pid"]
            assert alive(session["agentPid"])
            echo_node.end(started["sessionId"])
            poll(lambda: echo_node.counts()["pool"] == 1, "the pool is full")
    finally:
        echo_node.resize(2)


def test_a_resize_works_at_once_and_spares_the_assigned(echo_node: Node) -> None:
    started = echo_node.begin("spared")
    pid = echo_node.session(started["sessionId"])["agentPid"]
    echo_node.resize(5)
    assert len([agent for agent in echo_node.agents() if agent["status"] == "ready"]) == 5
    pids = [agent["pid"] for agent in echo_node.agents() if agent["status"] == "ready"]
    echo_node.resize(1)
    poll(lambda: sum(alive(one) for one in pids) == 1, "four have gone")
    assert alive(pid)
    assert echo_node.session(started["sessionId"])["status"] in {"ready", "active"}
    echo_node.end(started["sessionId"])
    echo_node.resize(2)


def test_an_assignment_refills_the_pool_without_waiting_for_beat(echo_node: Node) -> None:
    poll(lambda: echo_node.counts()["pool"] == 2, "the pool is full")
    ticks = echo_node.log("beat").count("Sending due task refill")
    started = echo_node.begin("refill")
    poll(lambda: echo_node.counts()["pool"] == 2, "the pool is full again", 10)
    assert echo_node.log("beat").count("Sending due task refill") <= ticks + 1
    echo_node.end(started["sessionId"])


@pytest.fixture(scope="module")
def bad_node(short_folder: Any) -> Any:
    """A node whose agents do what they are told, mostly to die."""
    folder = short_folder / "bad"
    folder.mkdir()
    (folder / ".env").write_text("OPENAI_API_KEY=from-the-file\nOWN=listed\nAGENT_ENV=OWN\n")
    settings = {"USER_GONE_SECONDS": 2, "USER_JOIN_SECONDS": 4, "MAX_SESSION_SECONDS": 8, "SESSION_KEEP_SECONDS": 1000}
    with Node(folder, POOL_TARGET=1, AGENT_MODULE="tests.support.agents", **settings) as node:
        yield node


@pytest.mark.parametrize(
    ("deed", "status", "reason", "last"),
    [
        ("raise", "error", "agent_error: RuntimeError: told to fail", "[agent exited with code 0]"),
        ("segfault", "error", "agent_lost: killed by signal 11", "[agent killed by signal 11]"),
        ("leave", "ended", "done here", "[agent exited with code 0]"),
    ],
)
async def test_the_end_of_an_agent_is_told_with_its_cause_and_its_last_words(
    bad_node: Node, deed: str, status: str, reason: str, last: str
) -> None:
    poll(lambda: bad_node.counts()["pool"] == 1, "a warm agent")
    call = Call(bad_node.url, f"user-{deed}", metadata={"do": deed})
    async with call:
        await call.gone()
        session = await asyncio.to_thread(state, bad_node, call.session_id, "ended", "error")
    assert (session["status"], session["reason"]) == (status, reason)
    lines = poll(lambda: (found := bad_node.logs(call.session_id))[-1:] == [last] and found, "the last words")
    assert f"ready for {deed}" in lines
    if deed == "raise":
        assert any("RuntimeError: told to fail" in line for line in lines)
    if deed == "segfault":
        assert any("Fatal Python error: Segmentation fault" in line for line in lines)


async def test_what_stands_in_dot_env_reaches_the_agents_and_no_more(bad_node: Node) -> None:
    async with Call(bad_node.url, "shown", metadata={"do": "show"}) as call:
        await call.gone()
        await asyncio.to_thread(state, bad_node, call.session_id, "ended")
    lines = poll(
        lambda: (found := bad_node.logs(call.session_id))[-1:] != [] and found[-1][0] == "[" and found, "its log"
    )
    assert any("sees OPENAI_API_KEY=from-the-file OWN=listed" in line for line in lines), lines
    assert any("sees secret=None" in line for line in lines)


async def test_a_record_is_kept_as_long_as_is_set_whoever_ends_the_session(bad_node: Node) -> None:
    async with Call(bad_node.url, "keeper", metadata={"do": "leave"}) as call:
        await call.gone()
        await asyncio.to_thread(state, bad_node, call.session_id, "ended")
        with redis.Redis.from_url(bad_node.redis_url) as raw:
            assert 0 < raw.ttl(f"session:{call.session_id}") <= 1000
            assert 0 < raw.ttl(f"session:{call.session_id}:events") <= 1000


def test_a_session_that_nobody_joins_frees_its_agent(bad_node: Node) -> None:
    started = bad_node.begin("no-show")
    session = state(bad_node, started["sessionId"], "ended")
    assert session["reason"] == "user did not join within 4 s"
    poll(lambda: not alive(session["agentPid"]), "the agent is gone")


async def test_a_session_has_a_maximum_length(bad_node: Node) -> None:
    async with Call(bad_node.url, "talker") as call:
        await call.gone()
        session = await asyncio.to_thread(state, bad_node, call.session_id, "ended")
    assert session["reason"] == "maximum length of 8 s reached"


def test_an_agent_that_cannot_boot_is_an_error_with_its_reason(short_folder: Any) -> None:
    folder = short_folder / "poison"
    folder.mkdir()
    command = "python3 -c 'import sys; print(\"no model found\"); sys.exit(3)'"
    with Node(folder, POOL_TARGET=0, AGENT_COMMAND=command) as node:
        started = node.begin("unlucky")
        assert started["status"] == "starting"
        assert "estimatedWait" not in started, "nothing has booted yet, so nothing is measured"
        session = state(node, started["sessionId"], "error")
        # A refill may have tried too, for the session that waits: then the fifth failure has opened the breaker.
        broken = node.health()["breaker"]["failures"] >= 5
        after = "" if broken else " (after 4 attempts)"
        assert session["reason"] == f"boot_error: exited with code 3: no model found{after}"
        assert "no model found" in node.logs(started["sessionId"])
        assert node.log("worker").count("spawn failed, is tried again") in ((2, 3) if broken else (3,))
        assert "no model found" in " ".join(node.health()["warnings"])
        # Who tells of it names a command that prints what the agent printed.
        for command in (("status",), ("breaker",), ("explain", started["sessionId"])):
            (named, *_) = re.findall(r"orchestrator (logs \w+_[0-9a-f]{32})", node.command(*command).stdout)
            assert "no model found\n[agent exited with code 3]" in node.command(*named.split()).stdout


def test_a_command_line_can_be_the_agent(short_folder: Any) -> None:
    folder = short_folder / "command"
    folder.mkdir()
    with Node(folder, POOL_TARGET=1, AGENT_COMMAND="python -m tests.support.own_agent") as node:
        started = node.begin("plain")
        assert started["prewarmed"] is True
        served = lambda: any("own agent serves plain" in line for line in node.logs(started["sessionId"]))  # noqa: E731
        poll(served, "its log")
        node.end(started["sessionId"])
