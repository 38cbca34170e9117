"""Spoken conversations with agents: real speech in both directions, on a real LiveKit server."""

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest
from livekit import api, rtc
from livekit.agents import Agent, AgentSession
from livekit.agents.voice.remote_session import RemoteSession

from tests.support.node import Node
from tests.support.processes import alive, poll
from tests.support.spoken import A_TIME, Call
from tests.support.walk import walk


@pytest.fixture(scope="module")
def node(short_folder: Path) -> Iterator[Node]:
    """A node with the voice agent and default settings, except the time for a goodbye."""
    folder = short_folder / "voice"
    folder.mkdir()
    with Node(folder, POOL_TARGET=2, DRAIN_SECONDS=12, GOODBYE_SECONDS=10) as found:
        yield found


async def an_agent_greets_its_caller_and_answers(node: Node) -> None:
    async with Call(node.url, "grace", metadata={"name": "Grace"}) as call:
        assert call.session["prewarmed"] is True
        assert call.session["status"] in {"ready", "active"}
        assert re.fullmatch(r"[\d.e+]+ms", call.session["latency"])
        assert await call.read() == "hello grace how can i help you"
        assert (await call.heard()).text(), "it is speech"
        await call.ask("What time is it?", A_TIME)
        await call.ask("How many times have I spoken to you?", r"\b(two|three|four|five|six) times")
        session = await call.look()
        assert session["status"] == "active"
        assert set(session["timings"]) >= {"ready", "agentJoined", "active"}
        await call.ask("Okay, goodbye.", "nice talking")
        await call.gone()
    pid = session["agentPid"]
    poll(lambda: not alive(pid), "the agent is gone after hanging up")
    ended = poll(lambda: (found := node.session(call.session_id))["status"] == "ended" and found, "the session is over")
    assert ended["reason"] == "the agent hung up"
    logs = node.logs(call.session_id)
    assert any("joined room_" in line for line in logs)
    assert "[agent exited with code 0]" in poll(
        lambda: (lines := node.logs(call.session_id))[-1:] == ["[agent exited with code 0]"] and lines,
        "the last log line",
    )
    assert not any("time is it" in line.lower() for line in logs), "users' words are not logged"
    assert any("user spoke" in line for line in logs)
    assert not any("Traceback" in line or " ERROR " in line for line in logs), "\n".join(logs)


async def an_agent_can_be_interrupted(node: Node) -> None:
    async with Call(node.url, "barge") as call:
        await call.read()
        await call.say("What can you do?")
        await call.state("speaking")
        await call.say("Stop, what time is it?")
        # The long answer is interrupted: its end is never said, and the interruption is answered.
        assert "say goodbye" not in await call.read()
        await call.read()
        await call.ask("What time is it?", A_TIME)


async def the_agents_state_changes_after_the_user_joins(node: Node) -> None:
    """LiveKit's own pages hang up on an agent whose state never changes while they are in the room."""
    async with Call(node.url, "page") as call:
        agent = next(iter(call._room.remote_participants.values()))
        assert agent.kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
        await call.state("speaking")
        await call.state("listening")


async def _told(room: rtc.Room, agent: str, seconds: float) -> list[str]:
    """Return an agent's answers to the requests of LiveKit's own tools."""
    session = RemoteSession.from_room(room, agent)
    await session.start()
    try:
        asked = (
            session.get_agent_info(),
            session.get_chat_history(),
            session.get_session_state(),
            session.run("hello"),
        )
        tasks = [asyncio.ensure_future(each) for each in asked]
        done, rest = await asyncio.wait(tasks, timeout=seconds)
        for task in rest:
            task.cancel()
        return [str(task.result()) for task in done if not task.exception()]
    finally:
        await session.aclose()


async def a_caller_cannot_read_or_control_the_agent_except_by_voice(node: Node) -> None:
    """By default LiveKit shows an agent's instructions, tools and conversation to the room, and accepts text."""
    url, keys = f"ws://127.0.0.1:{node.environment['LIVEKIT_PORT']}", node.secrets

    def token(identity: str) -> str:
        made = api.AccessToken(keys["LIVEKIT_API_KEY"], keys["LIVEKIT_API_SECRET"]).with_identity(identity)
        return made.with_grants(api.VideoGrants(room_join=True, room="open")).to_jwt()

    # First with LiveKit's defaults, to show that the requests are the right ones.
    agent, guest, session = rtc.Room(), rtc.Room(), AgentSession[None]()
    try:
        await agent.connect(url, token("agent"))
        await guest.connect(url, token("guest"))
        await session.start(Agent(instructions="a secret of mine"), room=agent)
        assert "a secret of mine" in "".join(await _told(guest, "agent", 5))
    finally:
        await session.aclose()
        await guest.disconnect()
        await agent.disconnect()

    events: list[str] = []
    async with Call(node.url, "curious") as call:
        room = call._room
        for topic in ("lk.agent.session", "lk.chat"):
            room.register_byte_stream_handler(topic, lambda reader, _: events.append(reader.info.topic))
        await call.heard()
        room.unregister_byte_stream_handler("lk.agent.session")
        who = next(iter(room.remote_participants.values())).identity
        await room.local_participant.send_text("Goodbye.", topic="lk.chat")
        assert await _told(room, who, 3) == []
        for method in ("get_agent_info", "lk.agent.session", "session", "hang_up"):
            with pytest.raises(rtc.RpcError) as refused:
                await room.local_participant.perform_rpc(destination_identity=who, method=method, payload="{}")
            assert refused.value.code == rtc.RpcError.ErrorCode.UNSUPPORTED_METHOD
        assert events == [], "the agent does not send it unrequested either"
        # It has ignored the goodbye that was typed.
        await call.ask("How many times have I spoken to you?", r"\b(once|one time|two times|three times)\b")
        assert (await call.look())["status"] == "active"


async def an_agent_started_after_a_miss_answers(node: Node) -> None:
    node.resize(0)
    try:
        async with Call(node.url, "early") as call:
            assert call.session["prewarmed"] is False
            assert call.session["taskId"] == call.session_id
            assert re.fullmatch(r"[\d.e+-]+s", call.session["estimatedWait"])
            assert call.session_id.startswith("session_")
            assert "help you" in await call.read()
            await call.ask("Please say good morning.", "good morning")
    finally:
        node.resize(2)


async def a_call_continues_when_worker_and_host_are_killed(node: Node) -> None:
    async with Call(node.url, "survivor") as call:
        await call.read()
        before = await call.look()
        for program in ("worker", "host"):
            old = node.kill(program)
            await call.ask("What time is it?", A_TIME)
            poll(lambda old=old, program=program: node.program(program) not in {None, old}, f"{program} is restarted")
        after = await call.look()
        assert (after["agentPid"], after["status"]) == (before["agentPid"], "active")
        poll(lambda: node.counts()["pool"] == 2, "the pool is full again")
        pids = {agent["pid"] for agent in node.agents()}
        assert before["agentPid"] in pids, "the restarted host has found the agent"
        assert all(alive(pid) for pid in pids)
    poll(lambda: not alive(before["agentPid"]), "an adopted agent can be stopped")
    ended = node.session(call.session_id)
    assert (ended["status"], ended["reason"]) == ("ended", "stopped by request of the caller")


def the_command_line_places_a_call(node: Node) -> None:
    shown = node.command("call", "--say", "what time is it", "--user", "ada")
    assert "you" in shown.stdout
    assert re.search(r"reply after end of speech.*\d\.\d{3}", shown.stdout)
    found = json.loads(node.command("call", "--say", "hello", "--user", "ada", "--json").stdout)
    assert found["success"] is True
    assert set(found["timings"]) >= {"start answer", "agent in room", "first agent audio"}
    assert found["turns"][1]["agent"]


def _sockets(pid: int | None) -> set[str]:
    """Return the inodes of a process's open sockets."""
    folder = Path(f"/proc/{pid}/fd")
    return {str(link.readlink()) for link in folder.iterdir() if str(link.readlink()).startswith("socket:")}


def agents_have_no_secrets_of_the_node(node: Node) -> None:
    """Agents see neither the LiveKit secret, the admin token nor Redis's address, not even in the environment that they
    inherit."""
    secrets = node.secrets
    poll(lambda: node.counts()["pool"] == 2 == node.counts()["agents"], "only the pool is left")
    agents = node.agents()
    assert agents
    for pid in [*(agent["pid"] for agent in agents), node.program("host")]:
        seen = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        assert not [name for name, value in secrets.items() if value in seen], pid
        assert "REDIS" not in seen, "it has no address of Redis"
    host = _sockets(node.program("host"))
    assert host
    for agent in agents:
        assert not host & _sockets(agent["pid"]), "a forked agent has none of its host's connections"
    for log in (node.run_dir / "logs").glob("*.log"):
        text = log.read_text(errors="replace")
        assert not [name for name in ("ADMIN_TOKEN", "LIVEKIT_API_SECRET") if secrets[name] in text], log
    for name in ("secrets.json", "livekit.yaml", "host.sock", "relay.sock"):
        assert (node.run_dir / name).stat().st_mode & 0o077 == 0, name


def a_token_is_valid_for_one_room_only(node: Node) -> None:
    session = node.begin("tokens")
    answer = node.http.post("/api/token", json={"sessionId": session["sessionId"], "participant_name": "T"})
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    claims = jwt.decode(body["participant_token"], node.secrets["LIVEKIT_API_SECRET"], algorithms=["HS256"])
    room = node.session(session["sessionId"])["roomName"]
    assert claims["video"] == {
        "roomJoin": True, "room": room, "canPublish": True, "canSubscribe": True, "canPublishData": True,
        "canPublishSources": ["microphone"],
    }  # fmt: skip
    assert claims["exp"] - claims["nbf"] == 15 * 60
    assert body["server_url"] == f"ws://127.0.0.1:{node.environment['LIVEKIT_PORT']}"
    refused = {
        "rooms are chosen": {"sessionId": session["sessionId"], "room_name": "other"},
        "identities are chosen": {"sessionId": session["sessionId"], "participant_identity": "admin"},
        "LiveKit's own": {"sessionId": session["sessionId"], "participant_attributes": {"lk.agent.state": "x"}},
    }
    for words_of_it, request in refused.items():
        answer = node.http.post("/api/token", json=request)
        assert answer.status_code == 422
        assert words_of_it in answer.json()["detail"]
    node.end(session["sessionId"])
    assert node.http.post("/api/token", json={"sessionId": session["sessionId"]}).status_code == 409


async def a_replacement_agent_has_the_users_name_and_the_conversation(node: Node) -> None:
    async with Call(node.url, "x-1") as call:
        await call.read()
        name = (await call.ask("My name is Grace.", r"nice to meet you (\w+)"))[1]
        before = await call.look()
        os.kill(before["agentPid"], signal.SIGKILL)
        assert f"sorry {name} we were cut off" in await call.read()
        await call.ask("What is my name?", f"you are {name}")
        after = await call.look()
    assert (after["takeovers"], after["roomName"]) == (1, before["roomName"])


async def an_agent_says_goodbye_before_its_node_stops(node: Node) -> None:
    call = Call(node.url, "ada", patience=60)
    try:
        async with call:
            await call.read()
            assert node.process is not None
            node.process.terminate()
            text = await call.read()
            assert re.search("call again|goodbye", text), text
            await call.gone()
            assert await asyncio.to_thread(node.process.wait, 60) == 0
    finally:
        with contextlib.suppress(httpx.HTTPError):
            await call.hang_up()


STEPS = [
    an_agent_greets_its_caller_and_answers,
    an_agent_can_be_interrupted,
    the_agents_state_changes_after_the_user_joins,
    a_caller_cannot_read_or_control_the_agent_except_by_voice,
    an_agent_started_after_a_miss_answers,
    a_call_continues_when_worker_and_host_are_killed,
    the_command_line_places_a_call,
    agents_have_no_secrets_of_the_node,
    a_token_is_valid_for_one_room_only,
    a_replacement_agent_has_the_users_name_and_the_conversation,
    an_agent_says_goodbye_before_its_node_stops,
]


@pytest.mark.timeout(500)
async def test_callers_talk_with_agents(node: Node, subtests: pytest.Subtests) -> None:
    await walk(subtests, STEPS, node)
