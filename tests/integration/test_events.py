"""Server-sent events of a session's progress, from a real HTTP server on a real Valkey."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import redis

from orchestrator.api import change_feed, events, server
from orchestrator.api.app import create
from orchestrator.store import Store
from tests.support.agent_link import AgentLink
from tests.support.api import is_problem, on_a_port, settings, start
from tests.support.pool import warm


class Stream:
    """A reader of server-sent events."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status, self._lines = answer.status_code, answer.aiter_lines()
        self.last_id = ""

    async def line(self) -> str | None:
        async with asyncio.timeout(60):
            return await anext(self._lines, None)

    async def next(self) -> tuple[str, dict[str, Any]] | None:
        """Return (event, data) of the next message, or None at the end."""
        event, data = "", None
        while (line := await self.line()) is not None:
            name, _, value = line.partition(": ")
            if name == "id":
                self.last_id = value
            elif name == "event":
                event = value
            elif name == "data":
                data = json.loads(value)
            elif not line and data is not None:
                return event, data
        return None

    async def until(self, state: str) -> list[dict[str, Any]]:
        """Return the states up to and including a last one."""
        found: list[dict[str, Any]] = []
        while message := await self.next():
            if message[0] == "state":
                found.append(message[1])
            if found and found[-1]["state"] == state:
                return found
        raise AssertionError(f"the stream ended before {state}: {found}")


@asynccontextmanager
async def following(http: httpx.AsyncClient, session_id: str, last_id: str = "") -> AsyncIterator[Stream]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with http.stream("GET", f"/api/session/{session_id}/events", headers=headers) as answer:
        if answer.status_code == 200:
            assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer)


@pytest.fixture
async def http(store: Store, valkey_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with on_a_port(create(settings(valkey_url, max_sessions=2, queue_limit=5))) as client:
        yield client


async def stop(http: httpx.AsyncClient, session_id: str) -> None:
    assert (await http.post("/api/session/stop", json={"sessionId": session_id})).status_code == 200


async def test_each_step_of_a_boot_is_an_event(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    session_id = (await start(http, "ada")).json()["sessionId"]
    async with following(http, session_id) as stream:
        assert await stream.next() == ("state", {"state": "starting", "at": 0.0})
        await store.claim_agent(session_id, "n")
        assert (await stream.until("boot"))[-1]["phase"] == "claimed"
        await store.record_spawn(session_id, 1000, 1, "b", "n")
        assert (await stream.until("boot"))[-1]["phase"] == "process"
        link = AgentLink(valkey_url, session_id)
        await link.ready(1000)
        await link.close()
        assert (await stream.until("boot"))[-1] | {"at": 0} == {
            "state": "boot", "phase": "warm", "agentId": session_id, "at": 0,
        }  # fmt: skip
        ready = (await stream.until("ready"))[-1]
        assert ready["agentId"] == session_id
        assert ready["at"] >= 0
        await stop(http, session_id)
        assert (await stream.until("ended"))[-1]["reason"] == "stopped by request"
        assert await stream.next() is None, "the stream ends with the session"
        last = stream.last_id
    polled = (await http.get(f"/api/session/{session_id}")).json()["events"]
    async with following(http, session_id) as again:
        pushed = await again.until("ended")
    assert [event["state"] for event in polled] == [event["state"] for event in pushed]
    async with following(http, session_id, last) as over:
        assert over.status == 204, "a browser's EventSource does not reconnect"


async def test_a_reconnected_stream_continues_where_it_was_cut(
    http: httpx.AsyncClient, store: Store, valkey_url: str
) -> None:
    await warm(store, valkey_url, 1)
    session_id = (await start(http, "ada")).json()["sessionId"]
    async with following(http, session_id) as stream:
        await stream.until("ready")
        last = stream.last_id
    await stop(http, session_id)
    async with following(http, session_id, last) as stream:
        assert [event["state"] for event in await stream.until("ended")] == ["ended"]
    answer = await http.get(f"/api/session/{session_id}/events", headers={"Last-Event-ID": "yesterday"})
    is_problem(answer, 422, "malformed_request")


async def test_each_change_of_the_queue_position_is_an_event(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await warm(store, valkey_url, 2)
    raw.hset("pool:stats", "session_ms_mean", 60_000)
    first, _, waits, last = [(await start(http, user)).json()["sessionId"] for user in "abcd"]
    async with following(http, last) as stream:
        assert await stream.next() == ("state", {"state": "queued", "position": 2, "at": 0.0})
        assert await stream.next() == ("position", {"position": 2, "estimatedWait": "60s", "estimatedWaitSeconds": 60})
        await stop(http, waits)
        assert await stream.next() == ("position", {"position": 1, "estimatedWait": "30s", "estimatedWaitSeconds": 30})
        await warm(store, valkey_url, 1)
        await stop(http, first)
        assert [event["state"] for event in await stream.until("ready")] == ["starting", "ready"]


async def test_an_idle_stream_sends_pings(
    http: httpx.AsyncClient, store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PING_SECONDS", 0.2)
    await warm(store, valkey_url, 1)
    session_id = (await start(http, "ada")).json()["sessionId"]
    async with following(http, session_id) as stream:
        await stream.until("ready")
        heard = [line for line in [await stream.line() for _ in range(6)] if line]
    assert heard == [": ping"] * len(heard)
    assert len(heard) >= 2


async def test_streams_are_limited_and_released(
    http: httpx.AsyncClient, store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_feed, "SESSION_LISTENERS", 2)
    await warm(store, valkey_url, 1)
    session_id = (await start(http, "ada")).json()["sessionId"]
    async with following(http, session_id) as one, following(http, session_id) as two:
        for stream in (one, two):
            await stream.until("ready")
        refused = await http.get(f"/api/session/{session_id}/events")
        is_problem(refused, 429, "too_many_listeners")
        assert "Retry-After" in refused.headers
    async with asyncio.timeout(60):
        while True:  # the server detects a closed connection a little later
            async with following(http, session_id) as stream:
                if stream.status == 200:
                    break
            await asyncio.sleep(0.05)


async def test_stopping_the_api_ends_its_streams(
    store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop does not wait for streams. Here uvicorn has no time limit after which it would close them itself."""
    monkeypatch.setattr(server, "GRACEFUL_SECONDS", None)
    await warm(store, valkey_url, 1)
    async with on_a_port(create(settings(valkey_url))) as http:
        session_id = (await start(http, "ada")).json()["sessionId"]
        context = following(http, session_id)
        stream = await context.__aenter__()
        await stream.until("ready")
        rest = asyncio.create_task(stream.next())
    assert await rest is None
    await context.__aexit__(None, None, None)
