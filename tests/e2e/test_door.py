"""LiveKit's own dispatch gets agents of the pool: by its API, by a token, by a phone call; once, and only in service.

livekit-sip is not run here. The tests do the same as its dispatch rules: they create a room with agents, and join it
as a participant of kind SIP.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import pytest
from livekit import api

from tests.support.guest import Guest, LiveKit, until
from tests.support.node import REPOSITORY, Node
from tests.support.processes import alive, free_ports, poll, stop
from tests.support.walk import walk

#: The fourth session begins at a real load of 0.75, at which LiveKit offers no more jobs: so the report is scaled.
CAP = 4


@pytest.fixture(scope="module")
def node(short_folder: Path) -> Iterator[Node]:
    """A node of echo agents with few sessions and short waits for absent users."""
    folder = short_folder / "door"
    folder.mkdir()
    settings = {
        "POOL_TARGET": 2, "AGENT_MODULE": "tests.support.told_agent", "MAX_SESSIONS": CAP, "USER_GONE_SECONDS": 2,
        "HEARTBEAT_SECONDS": 1,
    }  # fmt: skip
    with Node(folder, **settings) as found:
        door_is_open(found)
        yield found


def nothing_is_left(node: Node) -> None:
    """End the sessions of a step, because the next one needs the capacity."""
    for session in live(node):
        node.end(session["sessionId"])
    poll(lambda: not live(node), "no session is left")
    poll(lambda: node.counts()["pool"] == 2, "the pool is full")


def doors(node: Node) -> list[dict[str, str]]:
    """Return the registrations of the API processes with LiveKit."""
    return list(node.health()["doors"].values())


def door_is_open(node: Node, count: int = 1) -> None:
    """Wait until API processes are registered, so that LiveKit can offer jobs."""
    ready = lambda: sum(door["registered"] and not door["full"] for door in doors(node)) == count  # noqa: E731
    poll(ready, f"{count} API processes are registered")


def sessions(node: Node) -> list[dict[str, Any]]:
    """Return all kept sessions, newest first."""
    found: list[dict[str, Any]] = node.http.get("/api/sessions", headers=node.admin).json()["sessions"]
    return found


def live(node: Node) -> list[dict[str, Any]]:
    """Return the live sessions."""
    return [session for session in sessions(node) if session["status"] not in {"ended", "error"}]


def of_room(node: Node, room: str) -> dict[str, Any]:
    """Return the only session that a room ever had."""
    (found,) = [session for session in sessions(node) if session["roomName"] == room]
    return node.session(found["sessionId"])


async def status(node: Node, room: str, *wanted: str) -> dict[str, Any]:
    """Wait until a room's session is in one of some states."""

    async def look() -> dict[str, Any] | None:
        found = await asyncio.to_thread(of_room, node, room)
        return found if found["status"] in wanted else None

    found = await until(look, f"the session of {room} is {' or '.join(wanted)}")
    assert found
    return found


def name() -> str:
    """Return a name for a room that we did not create."""
    return f"Lobby {token_hex(4)}"


async def create_dispatch(node: Node) -> None:
    room = name()
    async with LiveKit.of(node) as livekit:
        dispatch = await livekit.dispatch(room, '{"name": "Ada", "tier": 2}')
        agent = await livekit.served(room)
        assert agent.attributes["lk.agent.state"] == "initializing"
        # The state must change again after the user has joined: LiveKit's own page hangs up otherwise.
        async with livekit.guest(livekit.token(room, "ada")) as guest:
            await guest.meet()
            session = await status(node, room, "active")
            assert (session["via"], session["dispatchId"]) == ("dispatch", dispatch.id)
            assert session["userId"] == f"room:{room}"
            first = session["events"][0]
            assert first | {"state": "ready", "via": "dispatch", "dispatchId": dispatch.id, "roomName": room} == first
            told = lambda: [line for line in node.logs(session["sessionId"]) if " told " in line]  # noqa: E731
            (line,) = await asyncio.to_thread(poll, told, "the agent logs its metadata")
            assert line.endswith('told {"name": "Ada", "tier": 2}')
            (job,) = await until(lambda: livekit.jobs(dispatch), "LiveKit lists the job")
            assert job.id == session["jobId"]
            assert job.state.participant_identity == session["sessionId"], "a job names its session"
        ended = await status(node, room, "ended")
        assert ended["reason"] == "user was gone for 2 s"
        told_story = await asyncio.to_thread(node.command, "explain", session["sessionId"])
        assert f"LiveKit asked for an agent in this room, by dispatch {dispatch.id}" in told_story.stdout
        listed = await asyncio.to_thread(node.command, "sessions")
        assert session["sessionId"] in listed.stdout


async def a_user_who_joins_with_our_token_gets_an_agent(node: Node) -> None:
    answer = await asyncio.to_thread(node.http.post, "/api/token", json={})
    token = answer.json()
    assert answer.status_code == 201, token
    assert not await asyncio.to_thread(live, node), "a token alone uses no agent"
    async with LiveKit.of(node) as livekit:
        began = time.monotonic()
        async with livekit.guest(token["participant_token"]) as guest:
            joined = time.monotonic()
            await guest.meet()
            (came,) = guest.came.values()
            print(f"joined after {joined - began:.3f} s, the agent came {came - joined:+.3f} s later")  # noqa: T201
            session = await status(node, token["room_name"], "active")
            assert session["userId"] == token["participant_identity"]
        await status(node, token["room_name"], "ended")
        await until(lambda: _gone(livekit, token["room_name"]), "our own room is deleted with its session")


async def _gone(livekit: LiveKit, room: str) -> bool:
    return not await livekit.exists(room)


async def a_user_who_joins_with_a_foreign_token_gets_an_agent(node: Node, *, metadata: str, told: str) -> None:
    room = name()
    config = api.RoomConfiguration(agents=[api.RoomAgentDispatch(agent_name="voice-agent", metadata=metadata)])
    async with LiveKit.of(node) as livekit, livekit.guest(livekit.token(room, "ada", config=config)) as guest:
        await guest.meet()
        session = await status(node, room, "active")
        said = lambda: any(line.endswith(f"told {told}") for line in node.logs(session["sessionId"]))  # noqa: E731
        await asyncio.to_thread(poll, said, "the agent logs its metadata")


async def too_large_metadata_is_refused_with_the_reason(node: Node) -> None:
    room = name()
    async with LiveKit.of(node) as livekit:
        await livekit.dispatch(room, "x" * 4097)
        words = "the dispatch's metadata has 4097 bytes, 4096 are the most"
        await asyncio.to_thread(poll, lambda: words in node.log("api"), "the log says why")
        assert not [session for session in sessions(node) if session["roomName"] == room]


async def dispatches_for_other_agent_names_are_ignored(node: Node) -> None:
    """A dispatch for another agent name is not answered, and LiveKit does not send an agent to every room."""
    room = name()
    async with LiveKit.of(node) as livekit:
        await livekit.dispatch(room, name="another-agent")
        async with livekit.guest(livekit.token(room, "ada")):
            await livekit.dispatch(name())
            await asyncio.to_thread(poll, lambda: live(node), "the dispatch after it is answered")
            assert not await livekit.agents(room)


async def a_phone_call_gets_an_agent(node: Node) -> None:
    """Like a SIP dispatch rule: a room is created with agents, and the caller joins. Hanging up ends the session."""
    room = f"call-+4930123456_{token_hex(4)}"
    async with LiveKit.of(node) as livekit:
        wanted = [api.RoomAgentDispatch(agent_name="voice-agent", metadata='{"line": "support"}')]
        await livekit.client.room.create_room(api.CreateRoomRequest(name=room, agents=wanted))
        async with livekit.guest(livekit.token(room, "sip_+4930123456", kind="sip")) as caller:
            await caller.meet()
            await status(node, room, "active")
            # When the agent hangs up, the caller must not be left in silence.
            await asyncio.to_thread(node.end, of_room(node, room)["sessionId"])
            await until(lambda: _gone(livekit, room), "the caller's room is deleted")


async def a_conference_continues_without_its_agent(node: Node) -> None:
    room = name()
    async with LiveKit.of(node) as livekit:
        await livekit.dispatch(room)
        async with (
            livekit.guest(livekit.token(room, "ada")) as ada,
            livekit.guest(livekit.token(room, "bob")) as bob,
        ):
            await ada.meet()
            session = await status(node, room, "active")
            await asyncio.to_thread(node.end, session["sessionId"])
            await until(lambda: _alone(livekit, room), "the agent is gone")
            left = lambda: node.http.get(f"/api/nodes/{session['node']}", headers=node.admin).json()["sessions"] == 0  # noqa: E731
            await asyncio.to_thread(poll, left, "the node has handled its room")
            assert {who.identity for who in await livekit.people(room)} == {"ada", "bob"}
            assert bob.room.isconnected()
            # The room can get another agent.
            await livekit.dispatch(room)
            await livekit.served(room)
        for session in live(node):
            await asyncio.to_thread(node.end, session["sessionId"])


async def _alone(livekit: LiveKit, room: str) -> bool:
    return not await livekit.agents(room)


async def an_empty_pool_boots_an_agent(node: Node) -> None:
    room = name()
    await asyncio.to_thread(node.resize, 0)
    try:
        async with LiveKit.of(node) as livekit, livekit.guest(livekit.token(room, "ada")) as guest:
            await livekit.dispatch(room)
            await guest.meet()
            session = await status(node, room, "active")
            assert session["prewarmed"] is False
            assert session["events"][0]["via"] == "dispatch"
    finally:
        await asyncio.to_thread(node.resize, 2)


async def a_full_node_reports_full_and_gets_jobs_again_later(node: Node) -> None:
    rooms = [name() for _ in range(CAP)]
    async with LiveKit.of(node) as livekit:
        for room in rooms:
            await livekit.dispatch(room)
            await livekit.served(room)
        await asyncio.to_thread(poll, lambda: doors(node)[0]["full"], "LiveKit is told that we are full")
        assert doors(node)[0]["full"] == f"All {CAP} sessions are taken."
        refused = name()
        await livekit.dispatch(refused)
        await asyncio.to_thread(node.end, of_room(node, rooms[0])["sessionId"])
        await asyncio.to_thread(door_is_open, node)
        served = name()
        await livekit.dispatch(served)
        await livekit.served(served)
        assert refused not in {session["roomName"] for session in sessions(node)}
        assert node.counts()["queued"] == 0


@contextlib.contextmanager
def second_api(node: Node) -> Iterator[Path]:
    """Run a second API process with the same Redis and LiveKit; yields its log."""
    api_pid = node.program("api")
    pairs = Path(f"/proc/{api_pid}/environ").read_bytes().decode().split("\0")
    port = str(free_ports())
    environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair) | {"PORT": port}
    command = [sys.executable, "-m", "uvicorn", "--factory", "orchestrator.api.app:create", "--port", port]
    with (node.run_dir / "second.log").open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=output, stderr=output)
    try:
        door_is_open(node, 2)
        yield node.run_dir / "second.log"
    finally:
        code = stop(process)
        print((node.run_dir / "second.log").read_text())  # noqa: T201 - shown when the test fails
    assert code in {0, -signal.SIGTERM}
    poll(lambda: len(doors(node)) == 1, "an API process that stops ends its registration")


async def one_agent_joins_with_two_registered_apis(node: Node) -> None:
    with second_api(node) as second:
        await _one_agent_comes(node, second)


async def _one_agent_comes(node: Node, second: Path) -> None:
    rooms = [name() for _ in range(CAP - 2)]
    async with LiveKit.of(node) as livekit:
        await asyncio.gather(*(livekit.dispatch(room) for room in rooms))
        for room in rooms:
            assert len([await livekit.served(room)]) == 1
        # Two dispatches for the same room at the same time: only one agent is needed, though there is capacity for two.
        room = name()
        await asyncio.gather(*(livekit.dispatch(room) for _ in range(2)))
        await livekit.served(room)
        answered = lambda: "a job needs no agent" in node.log("api") + second.read_text()  # noqa: E731
        await asyncio.to_thread(poll, answered, "the other job is refused")
        assert len(live(node)) == CAP - 1
        assert len(await livekit.agents(room)) == 1


async def a_killed_api_costs_no_call(node: Node) -> None:
    room, after = name(), name()
    async with LiveKit.of(node) as livekit:
        await livekit.dispatch(room)
        async with livekit.guest(livekit.token(room, "ada")) as guest:
            agent = await guest.meet()
            session = await status(node, room, "active")
            await asyncio.to_thread(node.kill, "api")
            await asyncio.to_thread(poll, lambda: _answers(node), "the API is up again")
            await asyncio.to_thread(poll, lambda: [d for d in doors(node) if d["jobs"] == 1], "it has found the job")
            await livekit.dispatch(after)
            await livekit.served(after)
            assert [who.sid for who in guest.agents()] == [agent.sid], "the same agent is still in the call"
            assert of_room(node, room)["status"] == "active"
            assert alive(session["agentPid"])
        ended = await status(node, room, "ended")
        assert ended["reason"] == "user was gone for 2 s"
        await asyncio.to_thread(poll, lambda: len(doors(node)) == 1, "the dead process's registration has expired")


def _answers(node: Node) -> bool:
    try:
        return node.http.get("/livez").is_success
    except httpx.TransportError:
        return False


async def a_deleted_dispatch_ends_the_job_and_a_takeover_does_not(node: Node) -> None:
    room = name()
    async with LiveKit.of(node) as livekit:
        dispatch = await livekit.dispatch(room)
        async with livekit.guest(livekit.token(room, "ada")) as guest:
            await guest.meet()
            # Two takeovers: LiveKit's event for the leaving of the first agent has arrived by the second one.
            for takeovers in (1, 2):
                (agent,) = guest.agents()
                session = await status(node, room, "active")
                await asyncio.to_thread(poll, lambda: node.counts()["pool"] > 0, "one is warm")
                os.kill(session["agentPid"], signal.SIGKILL)
                await until(lambda: _another(guest, agent.sid), "another agent is in the room")  # noqa: B023
                session = await status(node, room, "active", "ended")
                assert (session["status"], session["takeovers"]) == ("active", takeovers), session
            (job,) = await livekit.jobs(dispatch)
            assert job.state.status == api.JobStatus.JS_RUNNING
            await livekit.client.agent_dispatch.delete_dispatch(dispatch.id, room)
            ended = await status(node, room, "ended")
            assert ended["reason"] == "LiveKit has ended its dispatch"


async def _another(guest: Guest, before: str) -> bool:
    return [who.sid != before for who in guest.agents()] == [True]


async def a_draining_node_gets_no_jobs(node: Node) -> None:
    node_id = node.environment["NODE_ID"]
    refused, served = name(), name()
    async with LiveKit.of(node) as livekit:
        drained = await asyncio.to_thread(node.http.post, f"/api/nodes/{node_id}/drain", headers=node.admin)
        assert drained.is_success
        await asyncio.to_thread(poll, lambda: doors(node)[0]["full"], "LiveKit is told")
        assert doors(node)[0]["full"] == "The node is stopping and takes no more sessions."
        await livekit.dispatch(refused)
        await asyncio.to_thread(node.supervisorctl, "restart", "worker")  # the node is in service again
        await asyncio.to_thread(door_is_open, node)
        await livekit.dispatch(served)
        await livekit.served(served)
        assert refused not in {session["roomName"] for session in sessions(node)}


async def workers_register_again_after_a_restart_of_livekit(node: Node) -> None:
    before = doors(node)[0]["workerId"]
    await asyncio.to_thread(node.kill, "livekit")
    again = lambda: (door := doors(node)[0])["registered"] and door["workerId"] != before and not door["full"]  # noqa: E731
    await asyncio.to_thread(poll, again, "registered anew")
    async with LiveKit.of(node) as livekit:
        room = name()
        await livekit.dispatch(room)
        await livekit.served(room)


STEPS = [
    create_dispatch,
    a_user_who_joins_with_our_token_gets_an_agent,
    partial(
        a_user_who_joins_with_a_foreign_token_gets_an_agent,
        metadata="Ada Lovelace",
        told='{"metadata": "Ada Lovelace"}',
    ),
    partial(a_user_who_joins_with_a_foreign_token_gets_an_agent, metadata="", told="{}"),
    too_large_metadata_is_refused_with_the_reason,
    dispatches_for_other_agent_names_are_ignored,
    a_phone_call_gets_an_agent,
    a_conference_continues_without_its_agent,
    an_empty_pool_boots_an_agent,
    a_full_node_reports_full_and_gets_jobs_again_later,
    one_agent_joins_with_two_registered_apis,
    a_killed_api_costs_no_call,
    a_deleted_dispatch_ends_the_job_and_a_takeover_does_not,
    a_draining_node_gets_no_jobs,
    workers_register_again_after_a_restart_of_livekit,
]


@pytest.mark.timeout(400)
async def test_livekits_dispatch_gets_agents_from_the_pool(node: Node, subtests: pytest.Subtests) -> None:
    await walk(subtests, [each for step in STEPS for each in (step, nothing_is_left)], node)
