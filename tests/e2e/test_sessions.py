"""How sessions begin, are taken over and end, and the command line: one node, real calls."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from livekit import api

from orchestrator.call.caller import Call
from tests.e2e import command_line
from tests.support import hurt
from tests.support.node import Node
from tests.support.processes import alive, poll
from tests.support.walk import walk


@pytest.fixture(scope="module")
def node(short_folder: Path) -> Iterator[Node]:
    """A node whose agents follow their session's metadata, with short waits for absent users."""
    folder = short_folder / "sessions"
    folder.mkdir()
    (folder / ".env").write_text("OPENAI_API_KEY=from-the-file\nOWN=listed\nAGENT_ENV=OWN\n")
    settings = {"USER_GONE_SECONDS": 2, "USER_JOIN_SECONDS": 600, "SESSION_KEEP_SECONDS": 1000, "HEARTBEAT_SECONDS": 1}
    with Node(folder, POOL_TARGET=2, AGENT_MODULE="tests.support.agents", **settings) as found:
        yield found


def livekit(node: Node) -> api.LiveKitAPI:
    """Return a client of the node's LiveKit server."""
    url, secrets = f"http://127.0.0.1:{node.environment['LIVEKIT_PORT']}", node.secrets
    return api.LiveKitAPI(url, secrets["LIVEKIT_API_KEY"], secrets["LIVEKIT_API_SECRET"])


async def rooms(node: Node) -> set[str]:
    """Return the rooms that exist on the node's LiveKit server."""
    async with livekit(node) as client:
        return {room.name for room in (await client.room.list_rooms(api.ListRoomsRequest())).rooms}


async def room_is_gone(node: Node, room: str) -> None:
    """Wait until a room is deleted; each request takes long enough that no pause is needed."""
    async with asyncio.timeout(60):
        while room in await rooms(node):
            pass


def state(node: Node, session_id: str, *wanted: str) -> dict[str, Any]:
    """Wait until a session is in one of some states."""
    look = lambda: (found := node.session(session_id))["status"] in wanted and found  # noqa: E731
    return poll(look, f"{session_id} is {' or '.join(wanted)}")


def warm(node: Node) -> list[dict[str, Any]]:
    """Return the warm agents with a recorded pid."""
    return [agent for agent in node.agents() if agent["status"] == "ready" and agent["pid"]]


@asynccontextmanager
async def echoing(node: Node, user: str, **metadata: Any) -> AsyncIterator[Call]:
    """Make a call in which the agent is heard."""
    call = await hurt.talking(node, user, echo=True, **metadata)
    try:
        yield call
    finally:
        await call.hang_up()


# How they begin and end


async def speech_is_echoed_and_a_stop_releases_everything(node: Node) -> None:
    async with Call(node.url, "echo", metadata={"echo": True}) as call:
        await call.say("One two three.")
        assert await call.sound() > 0
        session = await call.look()
        assert session["roomName"] in await rooms(node)
        stopped = await asyncio.to_thread(node.end, call.session_id)
        assert stopped == {
            "success": True, "sessionId": call.session_id, "status": "ended", "message": "The session is stopped.",
        }  # fmt: skip
        await call.gone()
        poll(lambda: not alive(session["agentPid"]), "the agent is gone")
        again = await asyncio.to_thread(node.end, call.session_id)
        assert again["success"] is True
        assert "already" in again["message"]
    await room_is_gone(node, session["roomName"])


async def a_closed_tab_frees_the_agent(node: Node) -> None:
    # During a call: if the user left while connecting, LiveKit would notice only by its timeouts.
    async with echoing(node, "tab") as call:
        session = await call.look()
        await call.leave()
        ended = await asyncio.to_thread(state, node, call.session_id, "ended")
    assert ended["reason"] == "user was gone for 2 s"
    poll(lambda: not alive(session["agentPid"]), "the agent is gone")
    await room_is_gone(node, session["roomName"])


def the_same_user_gets_the_same_session(node: Node) -> None:
    first = node.begin("twice")
    again = node.begin("twice", first["clientSecret"])
    assert first["sessionId"] == again["sessionId"]
    assert "already" in again["message"]
    node.end(first["sessionId"])


def ten_at_once_on_an_empty_pool_are_all_served(node: Node) -> None:
    node.resize(0)
    try:
        answers = [node.begin(f"crowd{n}") for n in range(10)]
        assert {answer["status"] for answer in answers} == {"starting"}
        sessions = [state(node, answer["sessionId"], "ready", "active", "error") for answer in answers]
        assert {session["status"] for session in sessions} <= {"ready", "active"}
        assert len({session["agentPid"] for session in sessions}) == 10
        for answer in answers:
            node.end(answer["sessionId"])
        poll(lambda: not [s for s in sessions if alive(s["agentPid"])], "all agents are gone")
        poll(lambda: node.counts()["agents"] == 0, "no superfluous agent was started")
    finally:
        node.resize(2)


def a_dead_agent_is_never_assigned(node: Node) -> None:
    node.resize(1)
    try:
        for attempt in range(5):
            (one,) = poll(partial(warm, node), "a warm agent")
            os.kill(one["pid"], signal.SIGKILL)
            started = node.begin(f"corpse{attempt}")
            session = state(node, started["sessionId"], "ready", "active", "error")
            assert session["status"] != "error"
            assert session["agentPid"] != one["pid"]
            assert alive(session["agentPid"])
            node.end(started["sessionId"])
            poll(lambda: node.counts()["pool"] == 1, "the pool is full")
    finally:
        node.resize(2)


def a_resize_is_immediate_and_keeps_assigned_agents(node: Node) -> None:
    started = node.begin("spared")
    pid = node.session(started["sessionId"])["agentPid"]
    node.resize(5)
    pids = [agent["pid"] for agent in node.agents() if agent["status"] == "ready"]
    assert len(pids) == 5
    node.resize(1)
    poll(lambda: sum(alive(one) for one in pids) == 1, "four have exited")
    assert alive(pid)
    assert node.session(started["sessionId"])["status"] in {"ready", "active"}
    node.end(started["sessionId"])
    node.resize(2)


def an_assignment_refills_the_pool_without_waiting_for_beat(node: Node) -> None:
    poll(lambda: node.counts()["pool"] == 2, "the pool is full")
    ticks = node.log("beat").count("Sending due task refill")
    started = node.begin("refill")
    poll(lambda: node.counts()["pool"] == 2, "the pool is full again")
    assert node.log("beat").count("Sending due task refill") <= ticks + 1
    node.end(started["sessionId"])


async def the_end_of_an_agent_is_reported_with_its_cause_and_last_lines(
    node: Node, *, deed: str, status: str, reason: str, last: str
) -> None:
    await asyncio.to_thread(poll, lambda: node.counts()["pool"] == 2, "warm agents")
    async with Call(node.url, f"user-{deed}", metadata={"do": deed}) as call:
        await call.gone()
        session = await asyncio.to_thread(state, node, call.session_id, "ended", "error")
    assert (session["status"], session["reason"]) == (status, reason)
    lines = poll(lambda: (found := node.logs(call.session_id))[-1:] == [last] and found, "the last log line")
    assert f"ready for {deed}" in lines
    if deed == "raise":
        assert any("RuntimeError: told to fail" in line for line in lines)
    if deed == "segfault":
        assert any("Fatal Python error: Segmentation fault" in line for line in lines)
    with hurt.connected(node) as raw:
        # However the session ends, its record is kept for the set time.
        assert 0 < raw.ttl(f"session:{call.session_id}") <= 1000
        assert 0 < raw.ttl(f"session:{call.session_id}:events") <= 1000


async def agents_get_the_allowed_variables_of_dot_env(node: Node) -> None:
    async with Call(node.url, "shown", metadata={"do": "show"}) as call:
        await call.gone()
        await asyncio.to_thread(state, node, call.session_id, "ended")
    lines = poll(lambda: (found := node.logs(call.session_id))[-1:] != [] and found[-1][0] == "[" and found, "its log")
    assert any("sees OPENAI_API_KEY=(secret) OWN=listed" in line for line in lines), lines
    assert any("sees secret=None" in line for line in lines)


def a_session_that_nobody_joins_frees_its_agent(node: Node) -> None:
    with hurt.policy(node, user_join_seconds=2):
        started = node.begin("no-show")
        session = state(node, started["sessionId"], "ended")
        assert session["reason"] == "user did not join within 2 s"
    poll(lambda: not alive(session["agentPid"]), "the agent is gone")


async def a_session_has_a_maximum_length(node: Node) -> None:
    with hurt.policy(node, max_session_seconds=4):
        async with Call(node.url, "talker") as call:
            await call.gone()
            session = await asyncio.to_thread(state, node, call.session_id, "ended")
    assert session["reason"] == "maximum length of 4 s reached"


# LiveKit's webhooks


def told(node: Node, event: str) -> int:
    with hurt.connected(node) as raw:
        return int(raw.hget("pool:stats", f"webhook:{event}:recorded") or 0)


async def livekits_webhooks_reach_the_node(node: Node) -> None:
    kinds = "room_started participant_joined track_published participant_left room_finished".split()
    before = {kind: told(node, kind) for kind in kinds}
    async with echoing(node, "told") as call:
        await asyncio.to_thread(node.end, call.session_id)
        await call.gone()
    heard = lambda: all(told(node, kind) > before[kind] for kind in kinds)  # noqa: E731
    await asyncio.to_thread(poll, heard, "every kind of event is recorded")
    assert told(node, "participant_joined") - before["participant_joined"] >= 2, "the user and the agent both join"
    health = node.health()
    assert health["stats"]["webhook:room_started:recorded"] > before["room_started"]


async def a_user_who_enters_the_room_of_an_ended_call_is_removed(node: Node) -> None:
    async with echoing(node, "again") as call, livekit(node) as client:
        room = (await call.look())["roomName"]
        await asyncio.to_thread(node.end, call.session_id)
        await call.gone()
        await client.room.create_room(api.CreateRoomRequest(name=room))
        # The next periodic check may be a minute away, so the webhook must trigger this one.
        await room_is_gone(node, room)


# An agent that dies in a call: the user hears the next one in the same room


async def taken_over(node: Node, call: Call, before: dict[str, Any], *, takeovers: int = 1) -> dict[str, Any]:
    """Wait until another agent has taken over a call and its user hears it."""

    def look() -> dict[str, Any] | None:
        found = node.session(call.session_id)
        assert found["status"] not in {"ended", "error"}, found
        return found if (found["takeovers"], found["status"]) == (takeovers, "active") else None

    after = await asyncio.to_thread(poll, look, f"takeover {takeovers}")
    await asyncio.to_thread(poll, lambda: not alive(before["agentPid"]), "the other one is gone")
    assert after["agentPid"] != before["agentPid"]
    await call.next_sound()
    return after


async def a_killed_agent_is_replaced_and_the_call_continues(node: Node) -> None:
    async with echoing(node, "killed") as call:
        before = await call.look()
        os.kill(before["agentPid"], signal.SIGKILL)
        await taken_over(node, call, before)


async def hung_agents_are_replaced_and_calls_continue(node: Node) -> None:
    """One agent is stopped, one has a blocked event loop, and one has lost its connection to the relay for good."""
    async with echoing(node, "hung") as hung, echoing(node, "blocked", later="block") as blocked:
        before = {call: await call.look() for call in (hung, blocked)}
        os.kill(before[hung]["agentPid"], signal.SIGSTOP)
        async with echoing(node, "lost", later="lose_relay") as lost:
            before[lost] = await lost.look()
            for call, line in ((blocked, "blocks"), (lost, "has lost the relay")):
                said = lambda: line in "".join(node.logs(call.session_id))  # noqa: B023, E731
                await asyncio.to_thread(poll, said, "the agent has failed as requested")
            for call, session in before.items():
                after = await taken_over(node, call, session)
                assert "no heartbeat for" in after["cause"]


async def the_third_death_ends_the_call_with_the_last_cause(node: Node) -> None:
    async with echoing(node, "unlucky") as call:
        before = await call.look()
        for takeovers in (1, 2):
            os.kill(before["agentPid"], signal.SIGKILL)
            before = await taken_over(node, call, before, takeovers=takeovers)
        os.kill(before["agentPid"], signal.SIGSEGV)
        await call.gone()
        after = await asyncio.to_thread(state, node, call.session_id, "error")
    assert (after["status"], after["takeovers"]) == ("error", 2)
    assert after["reason"] == "agent_lost: killed by signal 11"
    assert [agent["signal"] for agent in after["agents"]] == [9, 9, 11]
    assert all(agent["peakMemory"] > 1 << 20 for agent in after["agents"])
    states = [event["state"] for event in after["events"]]
    assert states.count("takeover") == 2
    assert "firstAudio" in after["timings"]
    assert after["lastLogLines"][-1] == "[agent killed by signal 11]"


def the_health_check_sees_every_process(node: Node) -> None:
    poll(lambda: node.counts()["pool"] == 2, "the pool is full")
    (agent, *_) = warm(node)
    # Beat sends this task once a minute; send it now.
    script = "from orchestrator.worker.tasks import health_check; health_check.delay()"
    environment = node.environment | {"REDIS_URL": node.redis_url}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)
    with hurt.connected(node) as raw:
        health = poll(lambda: raw.hgetall(f"agent:{agent['agentId']}:health"), "the agent has been checked")
    assert health["status"] == "ok"
    assert int(health["memory_bytes"]) > 1_000_000
    assert int(health["last_check"]) > 0


_END = the_end_of_an_agent_is_reported_with_its_cause_and_last_lines
STEPS = [
    *command_line.STEPS,
    speech_is_echoed_and_a_stop_releases_everything,
    a_closed_tab_frees_the_agent,
    the_same_user_gets_the_same_session,
    ten_at_once_on_an_empty_pool_are_all_served,
    a_dead_agent_is_never_assigned,
    a_resize_is_immediate_and_keeps_assigned_agents,
    an_assignment_refills_the_pool_without_waiting_for_beat,
    partial(
        _END, deed="raise", status="error", reason="agent_error: RuntimeError: told to fail",
        last="[agent exited with code 0]",
    ),
    partial(
        _END, deed="segfault", status="error", reason="agent_lost: killed by signal 11",
        last="[agent killed by signal 11]",
    ),
    partial(_END, deed="leave", status="ended", reason="done here", last="[agent exited with code 0]"),
    agents_get_the_allowed_variables_of_dot_env,
    a_session_that_nobody_joins_frees_its_agent,
    a_session_has_a_maximum_length,
    livekits_webhooks_reach_the_node,
    a_user_who_enters_the_room_of_an_ended_call_is_removed,
    a_killed_agent_is_replaced_and_the_call_continues,
    hung_agents_are_replaced_and_calls_continue,
    the_third_death_ends_the_call_with_the_last_cause,
    the_health_check_sees_every_process,
]  # fmt: skip


# AGENT_COMMAND instead of a module


def an_agent_that_cannot_boot_ends_the_session_with_the_reason(node: Node) -> None:
    started = node.begin("unlucky")
    assert started["status"] == "starting"
    assert "estimatedWait" not in started, "there is no estimate before the first boot"
    session = state(node, started["sessionId"], "error")
    # A refill may have started an agent for the waiting session too; then the fifth failure has opened the breaker.
    broken = node.health()["breaker"]["failures"] >= 5
    after = "" if broken else " (after 4 attempts)"
    assert session["reason"] == f"boot_error: exited with code 3: no model found{after}"
    assert "no model found" in node.logs(started["sessionId"])
    assert node.log("worker").count("spawn failed, is tried again") in ((2, 3) if broken else (3,))
    assert "no model found" in " ".join(node.health()["warnings"])
    # Every report of the failure names a command that prints the agent's log.
    for command in (("status",), ("breaker",), ("explain", started["sessionId"])):
        (named, *_) = re.findall(r"orchestrator (logs \w+_[0-9a-f]{32})", node.command(*command).stdout)
        assert "no model found\n[agent exited with code 3]" in node.command(*named.split()).stdout


def a_repaired_agent_serves_its_user(node: Node) -> None:
    agent(node).write_text("exec python -m tests.support.own_agent\n")
    close = lambda: node.http.post("/api/breaker/close", headers=node.admin).is_success  # noqa: E731
    poll(close, "the breaker is closed")
    started = node.begin("plain")
    state(node, started["sessionId"], "ready")
    served = lambda: any("own agent serves plain" in line for line in node.logs(started["sessionId"]))  # noqa: E731
    poll(served, "the session's log")
    node.end(started["sessionId"])


def agent(node: Node) -> Path:
    return node.run_dir / "agent.sh"


COMMAND_STEPS = [an_agent_that_cannot_boot_ends_the_session_with_the_reason, a_repaired_agent_serves_its_user]


@pytest.mark.timeout(500)
async def test_sessions_from_their_start_to_their_end(
    node: Node, short_folder: Path, subtests: pytest.Subtests
) -> None:
    await walk(subtests, STEPS, node)
    folder = short_folder / "command"
    folder.mkdir()
    command = Node(folder, POOL_TARGET=0, AGENT_COMMAND=f"sh {folder}/agent.sh")
    agent(command).write_text("""python3 -c 'import sys; print("no model found"); sys.exit(3)'\n""")
    with command:
        await walk(subtests, COMMAND_STEPS, command)
