"""The relay between agents and a real Valkey: what it delivers, and what is kept when one of them is away."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from agent_runtime import relay_link
from agent_runtime.relay_link import RelayLink
from orchestrator.errors import IllegalMove, NotTheAgent, StoreUnavailable
from orchestrator.models import new_id
from orchestrator.reasons import because
from orchestrator.store import Store, keys
from tests.support.pool import assign, change, warm
from tests.support.processes import sleeper
from tests.support.refusing import Refusing
from tests.support.relay import RelayProcess, enrol, relaying

pytestmark = pytest.mark.thorough
NODE = "n1"


@pytest.fixture
def relay(short_folder: Path, valkey_url: str) -> Iterator[RelayProcess]:
    found = RelayProcess(short_folder, valkey_url, NODE)
    try:
        found.listens()
        yield found
        found.end()
    finally:
        found.process.kill()
        found.process.wait()


@asynccontextmanager
async def linked(run_dir: Path, agent_id: str) -> AsyncIterator[RelayLink]:
    """A link of this process, which the record says is the agent."""
    enrol(run_dir, agent_id)
    link = RelayLink(run_dir / "relay.sock", agent_id)
    try:
        yield link
    finally:
        await link.close()


async def becomes(look: Callable[[], object], seconds: float = 60) -> None:
    """Repeat a check until its result is true."""
    async with asyncio.timeout(seconds):
        while not look():  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.01)


async def message(link: RelayLink, seconds: float = 60) -> dict[str, object]:
    """Return the next message."""
    async with asyncio.timeout(seconds):
        while (found := await link.next_message()) is None:
            pass
        return found


async def answered(report: Callable[[], Awaitable[object]]) -> object:
    """Repeat a report until it is answered."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await report()
            except StoreUnavailable:
                await asyncio.sleep(0.02)


async def test_a_session_goes_through_the_relay(
    store: Store, raw: redis.Redis, valkey_url: str, short_folder: Path, relay: RelayProcess
) -> None:
    begun = await assign(store, "ada")
    agent_id = begun.session_id
    await store.claim_agent(agent_id, NODE)
    await store.record_spawn(agent_id, os.getpid(), 1, "boot", NODE)
    async with linked(short_folder, agent_id) as link:
        assert await link.ready(os.getpid()) == agent_id
        assert (await message(link))["sessionId"] == agent_id
        await becomes(lambda: not raw.exists(keys.agent_inbox(agent_id)), 10)
        await link.joined()
        await link.presence(agent_id, present=True)
        await link.first_audio(agent_id)
        turn = {"role": "user", "text": 'it\'s "naïve"\n語', "at": 1.5}
        await link.turn(agent_id, turn)
        assert [json.loads(text) for text in raw.lrange(keys.conversation(agent_id), 0, -1)] == [turn]
        assert await link.beat() == "running"
        session = await store.session(agent_id)
        assert session is not None
        assert session.status == "active"
        assert raw.hget(f"session:{agent_id}", "firstAudioAt")
        with pytest.raises(IllegalMove):
            await link.ready(os.getpid())
        await link.ended(agent_id, "ended", because("user_gone"))
        assert raw.hget(f"session:{agent_id}", "reasonCode") == "user_gone"
        assert (await message(link))["code"] == "user_gone", "it is told to leave"


async def test_a_message_is_announced_to_the_relay_of_the_agents_node(
    store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    (agent_id,) = await warm(store, valkey_url, 1, NODE)
    await assign(store, "ada")
    assert raw.lrange(keys.node_mail(NODE), 0, -1) == [agent_id]
    assert 0 < raw.ttl(keys.node_mail(NODE)) <= 60


async def test_a_first_sound_is_reported_by_the_sessions_own_agent(
    store: Store, raw: redis.Redis, valkey_url: str, short_folder: Path, relay: RelayProcess
) -> None:
    mine, other = await warm(store, valkey_url, 2, NODE)
    given = {(each := await assign(store, user)).agent_id: each.session_id for user in ("ada", "grace")}
    async with linked(short_folder, mine) as link:
        await link.first_audio(given[other])
        assert not raw.hexists(keys.session(given[other]), "firstAudioAt")
        await link.first_audio(given[mine])
        assert raw.hexists(keys.session(given[mine]), "firstAudioAt")


async def test_a_message_stays_in_redis_until_the_agent_has_confirmed_it(
    store: Store, raw: redis.Redis, valkey_url: str, short_folder: Path, relay: RelayProcess
) -> None:
    (agent_id,) = await warm(store, valkey_url, 1, NODE)
    enrol(short_folder, agent_id)
    reader, writer = await asyncio.open_unix_connection(short_folder / "relay.sock")
    writer.write(json.dumps({"id": 0, "op": "hello", "args": [agent_id]}).encode() + b"\n")
    assert json.loads(await reader.readline()) == {"id": 0, "ok": None}
    await assign(store, "ada")
    delivered = json.loads(await reader.readline())
    assert json.loads(delivered["text"])["type"] == "assign"
    # Killed between delivery and confirmation.
    relay.kill()
    writer.close()
    assert raw.lrange(keys.agent_inbox(agent_id), 0, -1) == [delivered["text"]]
    relay.again()
    async with linked(short_folder, agent_id) as link:
        assert await message(link) == json.loads(delivered["text"])
        await becomes(lambda: not raw.exists(keys.agent_inbox(agent_id)), 10)


async def test_a_message_that_is_delivered_twice_is_taken_once(
    store: Store, raw: redis.Redis, valkey_url: str, short_folder: Path, relay: RelayProcess
) -> None:
    (agent_id,) = await warm(store, valkey_url, 1, NODE)
    async with linked(short_folder, agent_id) as link:
        text = json.dumps({"type": "goodbye", "seconds": 5, "at": 1})
        raw.rpush(keys.agent_inbox(agent_id), text)
        assert (await message(link))["at"] == 1
        await becomes(lambda: not raw.exists(keys.agent_inbox(agent_id)), 10)
        # The confirmation was lost with the relay: the message is still there for the next one.
        raw.rpush(keys.agent_inbox(agent_id), text, text.replace("1}", "2}"))
        relay.kill()
        relay.again()
        assert (await message(link))["at"] == 2, "and another drain's goodbye is another message"
        await becomes(lambda: not raw.exists(keys.agent_inbox(agent_id)), 10)


async def test_a_message_that_nobody_announced_comes_at_the_heartbeat(
    store: Store, raw: redis.Redis, valkey_url: str, short_folder: Path, relay: RelayProcess
) -> None:
    """A node of the release before writes into the inbox alone; and a list of names is not kept for ever."""
    (agent_id,) = await warm(store, valkey_url, 1, NODE)
    async with linked(short_folder, agent_id) as link:
        await link.beat()
        raw.rpush(keys.agent_inbox(agent_id), '{"type": "stop", "reason": "r"}')
        await link.beat()
        assert (await message(link, 10))["type"] == "stop"


async def test_requests_without_an_answer_are_sent_again_to_the_next_relay(
    store: Store, raw: redis.Redis, valkey_url: str, short_folder: Path, relay: RelayProcess
) -> None:
    (agent_id,) = await warm(store, valkey_url, 1, NODE)
    session = await assign(store, "ada")
    async with linked(short_folder, agent_id) as link:
        await message(link)
        await link.joined()
        relay.pause()
        reports = [
            asyncio.create_task(link.turn(session.session_id, {"role": "user", "text": f"turn {number}", "at": 1.0}))
            for number in range(3)
        ]
        await asyncio.sleep(0)
        relay.kill()
        relay.again()
        await asyncio.gather(*reports)
        kept = [json.loads(text)["text"] for text in raw.lrange(keys.conversation(session.session_id), 0, -1)]
        assert sorted(kept) == ["turn 0", "turn 1", "turn 2"]
        # The report came, and its answer was lost.
        await link.turn(session.session_id, {"role": "user", "text": "turn 3", "at": 1.0})
        await link.turn(session.session_id, {"role": "user", "text": "turn 3", "at": 1.0})
        assert raw.llen(keys.conversation(session.session_id)) == 4


async def test_a_first_report_that_the_store_had_already_is_asked_for_again(short_folder: Path) -> None:
    """It was sent twice, because its answer was lost: the refusal of the second must not end the agent."""
    connections = 0

    async def loses_one_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readline()
        writer.write(b'{"id": 0, "ok": null}\n')
        request = json.loads(await reader.readline())
        if connections > 1:
            refused = {"id": request["id"], "error": "illegal_move", "detail": "ready -> ready"}
            writer.write(json.dumps(refused).encode() + b"\n")
            await reader.readline()
        writer.close()

    server = await asyncio.start_unix_server(loses_one_answer, short_folder / "relay.sock")
    async with server, linked(short_folder, new_id("prewarm")) as link:
        with pytest.raises(StoreUnavailable, match=r"the answer to the first report was lost"):
            await link.ready(1)
    assert connections == 2


async def test_a_process_speaks_only_for_its_own_agent(  # noqa: PLR0917 - fixtures
    store: Store,
    raw: redis.Redis,
    valkey_url: str,
    short_folder: Path,
    relay: RelayProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, victim = await warm(store, valkey_url, 2, NODE)
    raw.rpush(keys.agent_inbox(victim), '{"type": "assign", "token": "secret"}')
    with sleeper() as other:
        enrol(short_folder, victim, other.pid)
        enrol(short_folder, mine)
        stranger = RelayLink(short_folder / "relay.sock", victim)
        try:
            with pytest.raises(NotTheAgent, match="is not what the agent host has started"):
                await stranger.leave(because("given_up"))
            assert await stranger.next_message() is None
        finally:
            await stranger.close()
    assert raw.hget(f"agent:{victim}", "state") == "ready"
    assert raw.llen(keys.agent_inbox(victim)) == 1
    unknown = RelayLink(short_folder / "relay.sock", new_id("prewarm"))
    with pytest.raises(NotTheAgent):
        await unknown.beat()
    await unknown.close()
    monkeypatch.setattr(relay_link, "PATIENCE", 0.3)
    elsewhere = RelayLink(short_folder / "relay.sock", "../host")
    with pytest.raises(StoreUnavailable):
        await elsewhere.beat()
    await elsewhere.close()


async def test_malformed_requests_are_answered_and_change_nothing(
    store: Store, raw: redis.Redis, valkey_url: str, short_folder: Path, relay: RelayProcess
) -> None:
    (agent_id,) = await warm(store, valkey_url, 1, NODE)
    enrol(short_folder, agent_id)
    reader, writer = await asyncio.open_unix_connection(short_folder / "relay.sock")
    writer.write(json.dumps({"id": 0, "op": "hello", "args": [agent_id]}).encode() + b"\n")
    await reader.readline()
    before = raw.hgetall(f"agent:{agent_id}")
    wrong = [
        b"no json", b"[]", b"{}", b'{"id": 1, "op": "close", "args": []}', b'{"id": 1, "op": "ready", "args": ["1"]}',
        b'{"id": 1, "op": "leave", "args": [{"code": "x"}]}', b'{"id": 1, "op": "beat", "args": [1]}',
        b'{"id": 1, "op": ["beat"], "args": []}',
    ]  # fmt: skip
    for line in wrong:
        writer.write(line + b"\n")
        answer = json.loads(await reader.readline())
        assert "malformed request" in answer["detail"], line
    assert raw.hgetall(f"agent:{agent_id}") == before
    writer.close()


async def test_a_redis_that_is_away_is_an_error_and_then_not(short_folder: Path) -> None:
    with Refusing.running(short_folder) as valkey:
        async with Store(valkey.url, name="test", keep_seconds=60) as store:
            await change(store)
            (agent_id,) = await warm(store, valkey.url, 1, NODE)
            async with relaying(short_folder, valkey.url, NODE), linked(short_folder, agent_id) as link:
                assert await link.beat() == "ready"
                with valkey.read_only() as code, pytest.raises(StoreUnavailable, match=code):
                    await link.beat()
                assert await answered(link.beat) == "ready"
                await answered(lambda: assign(store, "ada"))
                assert (await message(link))["type"] == "assign"


async def test_an_inbox_that_cannot_be_read_is_told_to_the_agent(short_folder: Path) -> None:
    with Refusing.running(short_folder) as valkey:
        async with Store(valkey.url, name="test", keep_seconds=60) as store:
            await change(store)
            (agent_id,) = await warm(store, valkey.url, 1, NODE)
            async with relaying(short_folder, valkey.url, NODE), linked(short_folder, agent_id) as link:
                await link.beat()
                valkey.admin.set(keys.agent_inbox(agent_id), "no list")
                await link.beat()
                await becomes(lambda: link._inbox_trouble)
                with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
                    await link.next_message()
                valkey.admin.delete(keys.agent_inbox(agent_id))
                await link.beat()
                await becomes(lambda: link._inbox_trouble is None)


async def test_a_relay_that_is_away_is_as_a_redis_that_is_away(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_link, "PATIENCE", 0.2)
    async with linked(short_folder, new_id("prewarm")) as link:
        with pytest.raises(StoreUnavailable, match="the relay does not answer"):
            await link.beat()
