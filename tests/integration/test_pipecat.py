"""Pipecat bots as they are, run by `agent_runtime/pipecat_runner` in Pipecat's own environment, in a real room."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from livekit import api, rtc

from tests.support import livekit
from tests.support.guest import until
from tests.support.processes import alive

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-pipecat/bin/python"
BOTS = ROOT / "tests/support/pipecat_bots"
SECONDS = 60


class Parent:
    """The node's end of the line contract, with one bot at the other."""

    def __init__(self, file: Path, log: Path) -> None:
        ours, theirs = socket.socketpair()
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "AGENT_FD": str(theirs.fileno())}
        command = [PYTHON, ROOT / "agent_runtime/pipecat_runner", file]
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        theirs.close()
        self._socket, self.heard = ours, list[dict[str, Any]]()
        self._reader: asyncio.StreamReader

    async def say(self, kind: str, **values: Any) -> None:
        self._writer.write(json.dumps({"type": kind, **values}).encode() + b"\n")
        await self._writer.drain()

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket)

    async def hear(self, kind: str, seconds: float = SECONDS) -> dict[str, Any]:
        """Return the next message of a kind; others are kept in `heard`."""
        async with asyncio.timeout(seconds):
            while line := await self._reader.readline():
                self.heard.append(message := json.loads(line))
                if message["type"] == kind:
                    return message
        raise AssertionError(f"no {kind}, but {self.heard}\n{self.log.read_text()[-3000:]}")

    async def ended(self) -> int:
        """Return the exit code, after all that it had to say."""
        async with asyncio.timeout(SECONDS):
            while line := await self._reader.readline():
                self.heard.append(json.loads(line))
        return await asyncio.to_thread(self.process.wait, SECONDS)

    def kinds(self) -> list[str]:
        return [one["type"] for one in self.heard]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with livekit.server(tmp_path_factory.mktemp("livekit")) as port:
        yield port


def token(room: str, kind: str) -> str:
    grants = api.VideoGrants(room_join=True, room=room, can_update_own_metadata=True)
    made = api.AccessToken(livekit.KEY, livekit.SECRET).with_identity(f"{kind}-{room}").with_grants(grants)
    return made.with_kind(kind).to_jwt()


class Stage:
    """A room, a bot that is warm for it, and users."""

    def __init__(self, port: int, room: str, folder: Path, stack: contextlib.AsyncExitStack) -> None:
        self.url, self.room, self._folder, self._stack = f"ws://127.0.0.1:{port}", room, folder, stack
        self.words = list[tuple[str, str]]()
        self._reading: set[asyncio.Task[None]] = set()
        stack.push_async_callback(self._end_reading)

    async def warm(self, file: Path) -> Parent:
        bot = Parent(file, self._folder / f"log{len(list(self._folder.iterdir()))}")
        self._stack.callback(bot.process.wait)
        self._stack.callback(bot.process.kill)
        await bot.open()
        self._stack.callback(bot._writer.close)
        return bot

    async def assigned(self, file: str, **more: Any) -> Parent:
        bot = await self.warm(BOTS / file)
        await bot.hear("ready")
        where = {"room": self.room, "url": self.url, "token": token(self.room, "agent")}
        rest = {"userId": "ada", "metadata": {"customer": "Ada"}, "takeovers": 0, "conversation": []}
        await bot.say("assign", sessionId="s", **(where | rest | more))
        return bot

    async def user(self) -> rtc.Room:
        room = rtc.Room()
        room.register_text_stream_handler("lk.transcription", self._on_words)
        await room.connect(self.url, token(self.room, "standard"))
        self._stack.push_async_callback(room.disconnect)
        return room

    def _on_words(self, reader: rtc.TextStreamReader, identity: str) -> None:
        async def read() -> None:
            self.words.append((identity, await reader.read_all()))

        self._reading.add(asyncio.create_task(read()))

    async def _end_reading(self) -> None:
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)  # a stream whose bot was killed has no end


@pytest.fixture
async def stage(port: int, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    async with contextlib.AsyncExitStack() as stack:
        yield Stage(port, request.node.name, tmp_path, stack)


async def told(fact: bool) -> bool:
    return fact


async def say(room: rtc.Room, text: str) -> None:
    await room.local_participant.publish_data(json.dumps({"say": text}))


def state(room: rtc.Room) -> str:
    return next(iter(room.remote_participants.values())).attributes.get("lk.agent.state", "")


async def test_a_bot_for_daily_and_webrtc_talks_in_a_room_of_livekit(stage: Stage) -> None:
    user = await stage.user()
    bot = await stage.assigned("for_daily.py")
    states = list[str]()
    user.on("participant_attributes_changed", lambda changed, who: states.append(changed.get("lk.agent.state")))
    await bot.hear("joined")
    assert await bot.hear("user") == {"type": "user", "present": True, "lost": False}
    await bot.hear("audible")
    assert await bot.hear("turn") == {"type": "turn", "role": "agent", "text": "Hello, I am the bot."}
    await say(user, "blue")
    assert await bot.hear("turn") == {"type": "turn", "role": "user", "text": "blue"}
    assert await bot.hear("turn") == {"type": "turn", "role": "agent", "text": "You said blue."}
    await until(lambda: told(len(stage.words) == 3), "all three are shown")
    agent = f"agent-{stage.room}"
    assert stage.words == [
        (agent, "Hello, I am the bot."), (f"standard-{stage.room}", "blue"), (agent, "You said blue."),
    ]  # fmt: skip
    await until(lambda: told(state(user) == "listening"), "it listens")
    assert [one for one in states if one != "listening"] == ["thinking", "speaking"] * 2
    await bot.say("ping", n=7)
    assert await bot.hear("pong") == {"type": "pong", "n": 7}
    await bot.say("stop", reason="enough", code="stopped")
    assert await bot.ended() == 0
    assert "leave" not in bot.kinds()
    assert "saved the call of Ada" in bot.log.read_text()


async def test_a_bot_leaves_when_its_code_ends(stage: Stage) -> None:
    bot = await stage.assigned("for_daily.py")
    await bot.hear("joined")
    user = await stage.user()
    assert (await bot.hear("user"))["present"]
    await bot.hear("turn")
    await user.disconnect()
    assert await bot.hear("user") == {"type": "user", "present": False, "lost": False}
    await bot.hear("leave")
    assert await bot.ended() == 0
    assert "saved the call of Ada" in bot.log.read_text()


async def test_a_bot_that_takes_over_knows_what_was_said(stage: Stage) -> None:
    user = await stage.user()
    first = await stage.assigned("for_daily.py")
    await first.hear("turn")
    await say(user, "blue")
    while (await first.hear("turn"))["text"] != "You said blue.":
        pass
    first.process.kill()
    await asyncio.to_thread(first.process.wait, SECONDS)
    turns = [{"role": one["role"], "text": one["text"], "at": 0} for one in first.heard if one["type"] == "turn"]
    second = await stage.assigned("for_daily.py", takeovers=1, conversation=turns)
    assert (await second.hear("turn"))["text"] == "You said blue."
    await say(user, "green")
    await second.hear("turn")
    assert (await second.hear("turn"))["text"] == "You said blue and green."
    context = second.log.read_text().split("the context is ")[1].splitlines()[0]
    roles = [one["role"] for one in json.loads(context)]
    assert roles == ["system", "developer", "assistant", "user", "assistant", "developer"]


async def test_main_and_configure(stage: Stage) -> None:
    user = await stage.user()
    bot = await stage.assigned("with_main.py")
    assert (await bot.hear("turn"))["text"] == "Hello there."
    assert bot.kinds() == ["ready", "joined", "user", "audible", "turn"]
    await say(user, "end")
    await bot.hear("leave")
    assert await bot.ended() == 0


async def test_a_bot_that_fails_says_why(stage: Stage) -> None:
    user = await stage.user()
    bot = await stage.assigned("with_main.py")
    await bot.hear("turn")
    await say(user, "fail")
    assert await bot.hear("failed") == {"type": "failed", "cause": "ValueError: as it was told"}
    assert await bot.ended() == 1


async def test_a_bot_that_is_not_let_in_says_why_and_not_with_which_token(stage: Stage) -> None:
    refused = f"{token(stage.room, 'agent')[:-8]}AAAAAAAA"
    bot = await stage.assigned("for_daily.py", token=refused)
    cause = (await bot.hear("failed"))["cause"]
    assert "401 Unauthorized" in cause
    assert "[token]" in cause
    assert refused not in cause
    assert await bot.ended() == 1


async def test_a_bot_whose_service_gives_up_has_failed(stage: Stage) -> None:
    user = await stage.user()
    bot = await stage.assigned("for_daily.py")
    await bot.hear("turn")
    await say(user, "refuse")
    assert await bot.hear("failed") == {"type": "failed", "cause": "pipeline_failed: the key is refused"}
    assert await bot.ended() == 1
    assert "saved the call of Ada" in bot.log.read_text()


async def test_a_bot_that_is_terminated_cancels_its_pipeline(stage: Stage) -> None:
    bot = await stage.assigned("for_daily.py")
    await bot.hear("joined")
    bot.process.terminate()
    assert await bot.ended() == 0
    assert "saved the call of Ada" in bot.log.read_text()


async def test_a_blocked_bot_answers_no_ping(stage: Stage) -> None:
    user = await stage.user()
    bot = await stage.assigned("with_main.py")
    await bot.hear("turn")
    await bot.say("ping", n=1)
    await bot.hear("pong")
    await say(user, "block")

    async def hung() -> bool:
        await bot.say("ping", n=2)
        try:
            await bot.hear("pong", 2)
        except TimeoutError:
            return True
        return False

    await until(hung, "no ping is answered")
    assert alive(bot.process.pid)


async def test_a_bot_without_its_node_ends(stage: Stage) -> None:
    bot = await stage.assigned("for_daily.py")
    await bot.hear("joined")
    bot._writer.close()
    assert await asyncio.to_thread(bot.process.wait, SECONDS) == 0


async def test_a_room_that_is_closed_ends_the_bot(stage: Stage) -> None:
    bot = await stage.assigned("for_daily.py")
    await bot.hear("joined")
    async with api.LiveKitAPI(stage.url.replace("ws", "http"), livekit.KEY, livekit.SECRET) as client:
        await client.room.delete_room(api.DeleteRoomRequest(room=stage.room))
    assert await bot.hear("leave") == {"type": "leave", "reason": "the room is gone (ROOM_DELETED)"}
    assert await bot.ended() == 0


async def test_a_warm_bot_stops(stage: Stage) -> None:
    bot = await stage.warm(BOTS / "for_daily.py")
    await bot.hear("ready")
    await bot.say("stop", reason="enough")
    assert await bot.ended() == 0


def test_the_contract_on_standard_input_and_output(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("print('what a bot prints is no message')\nasync def bot(_): ...\n")
    command = [PYTHON, ROOT / "agent_runtime/pipecat_runner", tmp_path / "loud.py"]
    told = '{"type": "ping", "n": 1}\n{"type": "unheard of"}\nno json\n{"type": "stop"}\n'
    done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["ready", "pong", "log", "log"]
    assert "what a bot prints is no message" in done.stderr


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def bot(args): ...", "the file has neither `async def bot(runner_args)` nor `async def main()`"),
        ("async def main(): ...", "main() asks for its room in another way"),
    ],
)
async def test_a_file_that_is_no_bot_fails_at_boot(stage: Stage, tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "wrong.py").write_text(text)
    bot = await stage.warm(tmp_path / "wrong.py")
    assert cause in (await bot.hear("failed"))["cause"]
    assert await bot.ended() == 1
