"""The reconciler works alone: LiveKit sends no webhooks, and agents do not report who is in the room."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from livekit import api

from orchestrator.call.caller import Call
from tests.support.guest import LiveKit
from tests.support.hurt import talking
from tests.support.node import REPOSITORY, Node
from tests.support.processes import alive, poll


@pytest.fixture(scope="module")
def untold(short_folder: Path) -> Iterator[Node]:
    """A node without reports: LiveKit sends no webhooks, and agents do not report who is in the room."""
    folder = short_folder / "untold"
    folder.mkdir()
    settings = {
        "AGENT_MODULE": "tests.support.vanishing_agent", "POOL_TARGET": 2, "RECONCILE_SECONDS": 2,
        "USER_GONE_SECONDS": 3,
    }  # fmt: skip
    with Node(folder, **settings) as node:
        configuration = folder / "livekit.yaml"
        text = configuration.read_text()
        silent = re.sub(r"^webhook:\n(  .*\n)+", "", text, flags=re.MULTILINE)
        assert silent != text
        configuration.write_text(silent)
        node.supervisorctl("restart", "livekit")
        poll(lambda: node.health()["livekit"]["ok"], "LiveKit is up again")
        yield node


@asynccontextmanager
async def calling(node: Node, user: str, **metadata: Any) -> AsyncIterator[Call]:
    """Make a call in which the agent is heard."""
    call = await talking(node, user, **metadata)
    try:
        yield call
    finally:
        await call.hang_up()


async def rooms(client: api.LiveKitAPI) -> set[str]:
    return {room.name for room in (await client.room.list_rooms(api.ListRoomsRequest())).rooms}


async def deleted(client: api.LiveKitAPI, room: str) -> None:
    """Wait until a room is deleted; each request takes long enough that no pause is needed."""
    async with asyncio.timeout(30):
        while room in await rooms(client):
            pass


def states(node: Node, session_id: str) -> list[str]:
    return [event["state"] for event in node.session(session_id)["events"]]


async def until(node: Node, session_id: str, state: str, seconds: float = 30) -> None:
    """Wait until a session's history contains a state."""
    await asyncio.to_thread(poll, lambda: state in states(node, session_id), f"{session_id} is {state}", seconds)


async def test_a_call_works_with_the_reconciler_alone(untold: Node) -> None:
    async with calling(untold, "quiet") as call:
        await until(untold, call.session_id, "active")
        assert "user_left" not in states(untold, call.session_id)
        await call.leave()
        await until(untold, call.session_id, "ended", 60)
        session = untold.session(call.session_id)
        assert session["reason"] == "user was gone for 3 s"
        left = next(event for event in session["events"] if event["state"] == "user_left")
        assert left["by"] == "livekit"


@pytest.mark.timeout(180)
def test_a_killed_users_absence_is_detected(untold: Node) -> None:
    command = [sys.executable, "-m", "tests.support.tab", untold.url, "killed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as tab:
        try:
            assert tab.stdout is not None
            session_id = tab.stdout.readline().strip()
            poll(lambda: untold.session(session_id)["status"] == "active", "the call is active")
            pid = untold.session(session_id)["agentPid"]
        finally:
            tab.kill()
    poll(lambda: untold.session(session_id)["status"] == "ended", "the session has ended", 90)
    assert untold.session(session_id)["reason"] == "user was gone for 3 s"
    poll(lambda: not alive(pid), "the agent is gone")


@pytest.mark.timeout(180)
async def test_a_running_agent_missing_from_its_room_is_replaced(untold: Node) -> None:
    async with calling(untold, "deserted") as call:
        await until(untold, call.session_id, "active")
        await call._room.local_participant.publish_data("vanish")
        await until(untold, call.session_id, "takeover", 90)
        await call.next_sound()
        session = await call.look()
        assert session["takeovers"] == 1
        assert untold.session(call.session_id)["cause"] == "LiveKit does not find it in the room"
        again = lambda: untold.session(call.session_id)["status"] == "active"  # noqa: E731
        await asyncio.to_thread(poll, again, "the call is active again")


async def test_only_rooms_of_ended_calls_are_deleted(untold: Node) -> None:
    async with calling(untold, "survivor") as call:
        room = (await call.look())["roomName"]
    async with LiveKit.of(untold) as livekit:
        client = livekit.client
        await deleted(client, room)
        await client.room.create_room(api.CreateRoomRequest(name="somebody-elses"))
        await client.room.create_room(api.CreateRoomRequest(name=room))
        await deleted(client, room)
        assert "somebody-elses" in await rooms(client)
        await client.room.delete_room(api.DeleteRoomRequest(room="somebody-elses"))
