"""One file for LiveKit's own worker, run by LiveKit's worker and by a node: its job context does the same in both."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from livekit import api, rtc

from tests.support.guest import AGENT
from tests.support.livekit import KEY, SECRET, shared
from tests.support.node import REPOSITORY, Node
from tests.support.processes import alive, poll

FILE = "tests/unchanged/context.py"


@contextlib.contextmanager
def _worker(url: str, folder: Path) -> Any:
    """LiveKit's own worker with the file."""
    environment = dict(os.environ) | {
        "LIVEKIT_URL": url, "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET, "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, FILE, "start"], cwd=REPOSITORY, env=environment, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    family: list[psutil.Process] = []
    try:
        poll(lambda: "registered worker" in log.read_text(), "LiveKit's worker is registered", 120)
        yield
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        poll(lambda: not any(alive(each.pid) for each in family), "no process of the worker is left", 20)


@contextlib.asynccontextmanager
async def _user(url: str, room: str) -> AsyncIterator[rtc.Room]:
    grants = api.VideoGrants(room_join=True, room=room, can_publish=True, can_subscribe=True, can_publish_data=True)
    token = api.AccessToken(KEY, SECRET).with_identity("ada").with_grants(grants)
    joined = rtc.Room()
    await joined.connect(url, token.to_jwt())
    try:
        yield joined
    finally:
        await joined.disconnect()


async def _tried(url: str, name: str, folder: Path, end: str) -> dict[str, Any]:
    """Dispatch the agent as LiveKit does, into a new room with a user; returns what it is and does."""
    room, metadata = f"{name}-{end}", json.dumps({"folder": str(folder)})
    async with (
        api.LiveKitAPI(url, KEY, SECRET) as livekit,
        _user(url, room) as user,
    ):
        gone = asyncio.Event()
        user.on("disconnected", lambda *_: gone.set())
        said: asyncio.Queue[str] = asyncio.Queue()
        reading: set[asyncio.Task[None]] = set()

        async def read(reader: rtc.TextStreamReader) -> None:
            said.put_nowait(await reader.read_all())

        def on_text(reader: rtc.TextStreamReader, _: str) -> None:
            reading.add(asyncio.create_task(read(reader)))

        user.register_text_stream_handler("lk.transcription", on_text)
        await livekit.agent_dispatch.create_dispatch(
            api.CreateAgentDispatchRequest(agent_name=name, room=room, metadata=metadata)
        )
        agent = await asyncio.to_thread(
            poll,
            lambda: next(
                (each for each in user.remote_participants.values() if each.attributes.get("ready")), None
            ),
            "the agent is ready",
        )  # fmt: skip
        assert agent.kind == AGENT
        call = user.local_participant.perform_rpc
        facts = json.loads(
            await call(destination_identity=agent.identity, method="ask", payload="", response_timeout=20)
        )
        found = facts | {"name": agent.name, "metadata": agent.metadata, "speaks": agent.attributes["speaks"]}
        await user.local_participant.send_text("hello", topic="lk.chat")
        async with asyncio.timeout(30):
            found["answer to a typed word"] = await said.get()
        with contextlib.suppress(rtc.RpcError):  # the agent may be gone before it has answered
            await call(destination_identity=agent.identity, method="end", payload=end, response_timeout=20)
        if end == "delete":
            async with asyncio.timeout(30):
                await gone.wait()
    for name_of in ("saved", "report"):
        path = folder / f"{name_of}.json"
        await asyncio.to_thread(poll, path.exists, f"{name_of} is written")
        found[name_of] = json.loads(path.read_text())
    return found


@pytest.mark.timeout(400)
async def test_the_job_context_does_what_it_does_under_livekits_own_worker(short_folder: Path, tmp_path: Path) -> None:
    with shared(short_folder) as settings:
        url = settings["LIVEKIT_URL"]
        answers: dict[str, list[dict[str, Any]]] = {"theirs": [], "ours": []}

        async def try_both(which: str) -> None:
            for end in ("shutdown", "delete"):
                folder = tmp_path / which / end
                folder.mkdir(parents=True)
                answers[which].append(await _tried(url, "context", folder, end))

        with _worker(url, tmp_path):
            await try_both("theirs")
        folder = short_folder / "node"
        folder.mkdir()
        ours = settings | {"AGENT_MODULE": FILE, "AGENT_NAME": "context", "POOL_TARGET": 1}
        with Node(folder, **ours):
            await try_both("ours")
    for theirs, found in zip(answers["theirs"], answers["ours"], strict=True):
        folders = {"job metadata": ""}  # each has a folder of its own
        # The reason of a shutdown is the session's, which says more.
        reasons = {"saved": ""}
        assert found | folders | reasons == theirs | folders | reasons
        assert found["saved"], "the callbacks got a reason"
