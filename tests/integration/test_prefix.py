"""Every key, queue and channel begins with REDIS_PREFIX: of the store, its scripts, Celery and beat."""

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

import orchestrator.store
from orchestrator.config import redis_url
from orchestrator.reasons import words
from orchestrator.store import Store, keys, prefixed
from orchestrator.store.generated import key_positions
from orchestrator.store.loader import sources
from orchestrator.task_queue.app import CANARY, Publisher
from tests.support.agent_link import AgentLink
from tests.support.node import REPOSITORY
from tests.support.pool import POLICY, assign, warm
from tests.support.processes import poll, stop

PREFIX = "voice:"


def stray(raw: redis.Redis) -> list[str]:
    """Return the keys that lack the prefix."""
    return [key for key in raw.scan_iter(count=1000) if not key.startswith(PREFIX)]


@pytest.fixture
async def ours(raw: redis.Redis, valkey_url: str) -> AsyncIterator[Store]:
    place = replace(redis_url.parse(valkey_url), prefix=PREFIX)
    async with Store(place, name="test", keep_seconds=3600) as store:
        await store.configure(POLICY, 0)
        yield store


async def test_a_session_leaves_no_key_without_the_prefix(ours: Store, raw: redis.Redis, valkey_url: str) -> None:
    place = replace(redis_url.parse(valkey_url), prefix=PREFIX)
    (agent,) = await warm(ours, place, 1)
    began = await assign(ours, "ada")
    assert began.session_id == agent
    link = AgentLink(place, agent)
    message = await link.next_message()
    assert message is not None
    assert message["sessionId"] == agent
    await link.joined()
    await link.presence(agent, present=True)
    await link.turn(agent, {"role": "user", "text": "hello"})
    await link.first_audio(agent)
    await link.beat()
    waiting = await assign(ours, "bob")
    assert (await ours.counts())["active"] == 1
    assert (await ours.snapshot()).sessions.keys() == {agent, waiting.session_id}, "a scan returns only our keys"
    assert (await ours.reading()).sessions["active"] == 1
    assert raw.hget(f"{PREFIX}session:{agent}", "status") == "active"
    after, _ = await ours.changes("0")
    assert after != "0"
    await ours.beat_node("n1", {"life": "x"}, 10)
    assert set(await ours.nodes()) == {"n1"}
    await ours.append_logs(agent, ["one line"], 10)
    await ours.process_deadlines()
    await link.ended(agent, "ended", words("said goodbye"))
    await link.close()
    assert not stray(raw)


async def test_an_orchestrator_without_a_prefix_does_not_see_prefixed_keys(
    ours: Store, store: Store, valkey_url: str
) -> None:
    await warm(ours, replace(redis_url.parse(valkey_url), prefix=PREFIX), 2)
    assert (await store.counts())["pool"] == 0
    assert (await ours.counts())["pool"] == 2
    await store.set_target(7)
    assert (await ours.counts())["target"] == 2


@pytest.fixture
def worker(raw: redis.Redis, valkey_url: str, tmp_path: Path) -> Iterator[None]:
    settings = {
        "REDIS_URL": valkey_url, "REDIS_PREFIX": PREFIX, "NODE_ID": "n1", "RUN_DIR": str(tmp_path), "MAX_SESSIONS": "7",
        "PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip
    command = [sys.executable, "-m", "orchestrator.task_queue.command", "--quiet", "-A", "orchestrator.worker.tasks"]
    programs = []
    try:
        for name, *options in (("worker", "--pool=threads", "--hostname=node@n1"), ("beat", "--pidfile=")):
            with (tmp_path / f"{name}.log").open("wb") as log:
                programs.append(
                    subprocess.Popen([*command, name, *options], env=settings, cwd=tmp_path, stdout=log, stderr=log)
                )
        yield
    finally:
        for program in programs:
            stop(program)


@pytest.mark.thorough
def test_celery_beat_and_publisher_leave_no_key_without_the_prefix(
    worker: None, raw: redis.Redis, valkey_url: str
) -> None:
    publisher = Publisher(replace(redis_url.parse(valkey_url), prefix=PREFIX))
    try:
        publisher.send("orchestrator.cleanup_stale", task_id="mine")
        publisher.send(CANARY, queue="node.n1")
        poll(lambda: raw.get(f"{PREFIX}celery:result:celery-task-meta-mine"), "a task has run", 60)
        poll(lambda: raw.exists(f"{PREFIX}celery:beat::schedule", f"{PREFIX}beat:ticks") == 2, "beat ticks", 60)
        assert f"{PREFIX}_kombu.binding.celery" in set(raw.scan_iter())
        assert not stray(raw)
        assert all(str(channel).startswith(PREFIX) for channel in raw.pubsub_channels())
    finally:
        publisher.close()


def test_the_prefix_handles_every_command_of_the_scripts() -> None:
    told = {name for name, span in prefixed.SPANS.items() if span in {(0, 1), (0, None)}} | {"TIME"}
    used = set(re.findall(r"redis\.call\('([A-Z]+)'", "".join(sources().values())))
    assert used - told == set()
    assert not re.search(r"redis\.call\((?!')", "".join(sources().values())), "each call has a literal command name"
    assert not re.search(r"redis\.(?!call\()", "".join(sources().values()))
    assert all(key_positions() in source for source in sources(PREFIX).values())


def test_the_prefix_handles_every_command_of_the_store() -> None:
    """Every method that the store calls on a client or a pipeline is a command that `prefixed` accepts."""
    names = {"delete": "DEL", "scan_iter": "SCAN"}
    plumbing = {"aclose", "execute", "pipeline", "register_script"}
    called = set()
    for path in Path(inspect.getfile(orchestrator.store)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                if owner in {"self._redis", "self._blocking", "pipe", "redis"}:
                    called.add(node.func.attr)
    assert {"hgetall", "blpop", "xread"} <= called
    for name in sorted(called - plumbing):
        command = names.get(name, name.upper())
        arguments = {"XREAD": (b"STREAMS", "k", "0"), "EVALSHA": ("sha", 0)}.get(command, ("k", "v"))
        prefixed.prefixed(PREFIX, (command, *arguments))


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(ValueError, match="SORT"):
        prefixed.prefixed(PREFIX, ("SORT", "k"))


def test_without_a_prefix_the_scripts_are_unchanged() -> None:
    assert not any("PREFIX" in source for source in sources().values())
    assert keys.CELERY_QUEUE == "celery"
