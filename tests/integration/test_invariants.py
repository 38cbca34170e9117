"""`invariants.check`: no violation after real transitions, and one for each invariant that is broken by hand."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from orchestrator.cli.doctor import violations
from orchestrator.errors import HostUnavailable, IllegalMove
from orchestrator.host.client import HostClient
from orchestrator.host.protocol import Death, Process
from orchestrator.host.state_dir import AgentFolder
from orchestrator.machine.process import ProcessId, machine_boot_id
from orchestrator.models import new_id
from orchestrator.operations.invariants import Code, check
from orchestrator.operations.invariants.violation import TEXTS
from orchestrator.reasons import because, words
from orchestrator.settings import Settings
from orchestrator.store import Store
from tests.support.agent_link import AgentLink
from tests.support.host import Host, exec_host
from tests.support.pool import assign, change, fill
from tests.support.processes import alive, poll, stop

pytestmark = pytest.mark.thorough


@dataclass
class World:
    """One session of each state, and one agent of each."""

    store: Store
    raw: redis.Redis
    settings: Settings
    host: HostClient
    active: str
    ready: str
    starting: str
    queued: str
    over: str
    active_agent: str
    ready_agent: str
    booting: str
    warm: str
    pids: dict[str, int]

    async def violations(self, settle_seconds: float = 0) -> list[str]:
        return await in_words(self.store, self.settings, self.host, settle_seconds=settle_seconds)


async def in_words(store: Store, settings: Settings, host: Any, *, settle_seconds: float = 0) -> list[str]:
    """Check, and return the texts of the violations."""
    found = await check(store, settings, host, settle_seconds=settle_seconds)
    return [violation.text for violation in found]


@pytest.fixture(scope="module")
def machine(short_folder: Path) -> Iterator[Host]:
    """An agent host whose agents sleep. Its node id is unique, as other test runs may use the same machine."""
    folder = short_folder / f"inv{os.getpid()}"
    folder.mkdir()
    name = f"invariants-{os.getpid()}-{os.urandom(4).hex()}"
    host = exec_host(folder, ["sleep", "1000"], NODE_ID=name)
    yield host
    stop(host.process)


async def _ignore(_: Death) -> None:
    pass


@asynccontextmanager
async def connected(machine: Host) -> AsyncIterator[HostClient]:
    await machine.connect()
    await machine.client.close()
    client = await HostClient.connect(machine.run_dir / "host.sock", _ignore)
    try:
        yield client
    finally:
        living, _ = await client.hello()
        for process in living:
            await client.stop(process.agent_id, 0)
        async with asyncio.timeout(60):
            while (await client.hello())[0]:  # noqa: ASYNC110 - the host must be polled
                await asyncio.sleep(0.01)
        for death in (await client.hello())[1]:
            await client.acknowledge(death.agent_id)
        await client.close()


@asynccontextmanager
async def link(url: str, agent_id: str) -> AsyncIterator[AgentLink]:
    found = AgentLink(url, agent_id)
    try:
        yield found
    finally:
        await found.close()


async def boot(store: Store, url: str, host: HostClient, node: str, agent_id: str) -> int:
    """Make an announced agent warm, with a real process and the real scripts."""
    await store.claim_agent(agent_id, node)
    process = await host.spawn(agent_id)
    await store.record_spawn(agent_id, process.pid, process.start_ticks, process.boot_id, node)
    async with link(url, agent_id) as agent:
        await agent.ready(process.pid)
    return process.pid


@pytest.fixture
async def world(store: Store, raw: redis.Redis, valkey_url: str, machine: Host) -> AsyncIterator[World]:
    node = machine.environment["NODE_ID"]
    settings = Settings(node_id=node, run_dir=machine.run_dir, redis_url=valkey_url)
    await change(store, max_sessions=3)
    async with connected(machine) as host:
        await store.set_target(3)
        ids = await store.reserve_agents([new_id("prewarm") for _ in range(3)], node)
        pids = {agent_id: await boot(store, valkey_url, host, node, agent_id) for agent_id in ids}
        over = (await assign(store, "joan")).session_id
        active = (await assign(store, "ada")).session_id
        ready = (await assign(store, "grace")).session_id
        async with link(valkey_url, active) as agent:
            await agent.joined()
            await agent.presence(active, present=True)
            await agent.turn(active, {"role": "user", "text": "hello"})
        await store.end_session(over, "ended", because("stopped"))
        await store.room_closed(over)
        await host.stop(over, 0)
        poll(lambda: not alive(pids[over]), "its agent has exited")
        await store.record_exit(over, because("stopped"), 0)
        starting = (await assign(store, "barbara")).session_id
        queued = (await assign(store, "frances")).session_id
        (warm,) = fill(raw, 1)
        # A starting session and a warm agent can exist together, because each node serves only one session.
        raw.hset(f"agent:{ready}", "node", "n1")
        for name, busy in ((node, active), ("n1", ready)):
            raw.sadd("nodes", name)
            raw.hset(f"node:{name}", mapping={"pid": 1, "sessions": 1})
            raw.delete(f"node:{name}:warm", f"node:{name}:busy")
            raw.sadd(f"node:{name}:busy", busy)
        raw.sadd("node:n1:warm", warm)
        raw.zadd("deadlines", {f"beat|{warm}": (raw.time()[0] + 15) * 1000})
        found = World(
            store, raw, settings, host, active, ready, starting, queued, over, active, ready, starting, warm, pids
        )
        assert await found.violations(settle_seconds=5) == []
        yield found


def later(world: World) -> int:
    return (world.raw.time()[0] + 60) * 1000


async def copy_agent(world: World, source: str, **changes: str | int) -> str:
    """Add a copy of an agent's record, with a new id."""
    fresh = new_id("prewarm")
    world.raw.hset(f"agent:{fresh}", mapping=world.raw.hgetall(f"agent:{source}") | changes)
    world.raw.sadd("agents", fresh)
    world.raw.zadd("deadlines", {f"beat|{fresh}": later(world)})
    return fresh


async def copy_session(world: World, source: str, **changes: str | int) -> str:
    """Add a copy of a session's record, with a new id."""
    fresh = new_id("session")
    fields = world.raw.hgetall(f"session:{source}") | changes
    world.raw.hset(f"session:{fresh}", mapping=fields)
    world.raw.sadd(f"session:{fields['status']}", fresh)
    world.raw.sadd(f"user:sessions:{fields['userId']}", fresh)
    world.raw.zadd("deadlines", {f"max|{fresh}": later(world), f"user|{fresh}": later(world)})
    return fresh


_NOBODY = "session_" + "0" * 32

#: Deadlines that must not exist, and the violation that is reported of each.
WRONG_DEADLINES: dict[str, tuple[str, str]] = {
    "a deadline of a session that is over": ("max|{over}", "is for a session that is ended"),
    "a deadline of an agent that is gone": ("beat|{over}", "is for an agent that is exited"),
    "a deadline of nobody": (f"gone|{_NOBODY}", "is for a session that has no record"),
    "a drain that goes on when the node is back": ("drain|n1", "is for a node that does not drain"),
    "a deadline of an unknown kind": ("lunch|n1", "is for an unknown kind of deadline"),
    "the room of a live session is deleted": ("close|{active}", "is for a session that is active"),
    "a room is not deleted": ("close|{over}", "is for a room that is not deleted, and its session is over"),
    "LiveKit's job may still end a call": ("job|{active}", "is for a session that is active"),
    "a room is looked at for nobody": (f"look|{_NOBODY}", "is for a session that has no record"),
    "an alert is not queued": ("alert|x", "is for a message to the operator's webhook that nobody queues"),
}


def add_deadline(member: str, world: World) -> None:
    world.raw.zadd("deadlines", {member.format(**vars(world)): later(world)})


#: Changes that break one invariant each, and the violation that is reported.
IN_REDIS: dict[str, tuple[Callable[[World], object], str]] = {
    "a list names a session of another state": (
        lambda w: w.raw.sadd("session:starting", w.active),
        "session:starting names session {active}, which is active",
    ),
    "a list names a session without a record": (
        lambda w: w.raw.sadd("session:active", "session_" + "0" * 32),
        "session:active names session session_" + "0" * 32 + ", which has no record",
    ),
    "a live session is in no list": (
        lambda w: w.raw.srem("session:active", w.active),
        "session {active} is active, and session:active does not name it",
    ),
    "a queued session is not in line": (
        lambda w: w.raw.zrem("session:queued", w.queued),
        "session {queued} is queued, and session:queued does not name it",
    ),
    "a session in line is not queued": (
        lambda w: w.raw.zadd("session:queued", {w.ready: 1}),
        "session:queued names session {ready}, which is ready",
    ),
    "a starting session waits for no agent": (
        lambda w: w.raw.zrem("session:unbound", w.starting),
        "session {starting} is starting, and session:unbound does not name it",
    ),
    "a session with an agent waits for one": (
        lambda w: w.raw.zadd("session:unbound", {w.ready: 1}),
        "session:unbound names session {ready}, which is ready",
    ),
    "a node's list of busy agents lacks one": (
        lambda w: w.raw.delete(f"node:{w.settings.node_id}:busy"),
        "node:{settings.node_id}:busy does not name agent {active_agent}, which is running",
    ),
    "a node's list of busy agents names a warm one": (
        lambda w: w.raw.sadd(f"node:{w.settings.node_id}:busy", w.warm),
        "node:{settings.node_id}:busy names agent {warm}, which is ready",
    ),
    "half a record": (
        lambda w: w.raw.hdel(f"session:{w.active}", "userId"),
        "session:{active} is not a whole record",
    ),
    "a state that does not exist": (
        lambda w: w.raw.hset(f"agent:{w.warm}", "state", "tired"),
        "agent:{warm} is not a whole record",
    ),
    "the agent of a session has no record": (
        lambda w: w.raw.delete(f"agent:{w.ready_agent}"),
        "session {ready} is ready, and its agent {ready_agent} has no record",
    ),
    "the agent of a session is not serving": (
        lambda w: w.raw.hset(f"agent:{w.active_agent}", "state", "stopping"),
        "session {active} is active, and its agent {active_agent} is stopping",
    ),
    "the agent of a session serves another one": (
        lambda w: w.raw.hset(f"agent:{w.active_agent}", "sessionId", w.ready),
        "session {active} has agent {active_agent}, which serves {ready}",
    ),
    "an agent serves what is over": (
        lambda w: w.raw.hset(f"agent:{w.active_agent}", "sessionId", w.over),
        "agent {active_agent} is running for session {over}, which is ended",
    ),
    "an agent serves a session of another agent": (
        lambda w: w.raw.hset(f"session:{w.active}", "agentId", w.ready_agent),
        "agent {active_agent} is running for session {active}, which has agent {ready_agent}",
    ),
    "an agent has two sessions": (
        lambda w: copy_session(w, w.active, userId="eve"),
        "agent {active_agent} has more than one session: ",
    ),
    "a session has two agents": (
        lambda w: copy_agent(w, w.active_agent),
        "session {active} has more than one living agent: ",
    ),
    "a user has too many sessions": (
        lambda w: copy_session(w, w.ready, userId="ada"),
        "user 'ada' has more live sessions than 1",
    ),
    "too many sessions": (
        lambda w: copy_session(w, w.ready, userId="eve"),
        "more sessions than 3 are served at once",
    ),
    "a session that its user's cap does not see": (
        lambda w: w.raw.srem("user:sessions:grace", w.ready),
        "session {ready} does not count for its user 'grace'",
    ),
    "a session that is not found by its room": (
        lambda w: w.raw.set(f"session:room:{w.raw.hget(f'session:{w.active}', 'roomName')}", w.over),
        "session {active} is active, and is not found by its room 'room_",
    ),
    "an agent in the pool is not warm": (
        lambda w: w.raw.sadd("pool:ready", w.active_agent),
        "pool:ready names agent {active_agent}, which is running",
    ),
    "an agent in the pool is silent": (
        lambda w: w.raw.hset(f"agent:{w.warm}", "lastBeat", later(w) - 3_600_000),
        "pool:ready names agent {warm}, which is silent",
    ),
    "an agent in the pool was never heard": (
        lambda w: w.raw.hdel(f"agent:{w.warm}", "lastBeat"),
        "pool:ready names agent {warm}, which is silent",
    ),
    "a warm agent is not in the pool": (
        lambda w: w.raw.srem("pool:ready", w.warm),
        "agent {warm} is ready, and pool:ready does not name it",
    ),
    "a booting agent that no refill counts": (
        lambda w: w.raw.srem("pool:starting", w.booting),
        "agent {booting} is starting, and pool:starting does not name it",
    ),
    "an agent of the past that a refill counts": (
        lambda w: w.raw.sadd("pool:stale", w.over),
        "pool:stale names agent {over}, which is exited",
    ),
    "an agent that nobody lists": (
        lambda w: w.raw.srem("agents", w.active_agent),
        "agent {active_agent} is running, and agents does not name it",
    ),
    "an agent that is listed for ever": (
        lambda w: w.raw.sadd("agents", w.over),
        "agents names agent {over}, which is exited",
    ),
    "a queued session waits for ever": (
        lambda w: w.raw.zrem("deadlines", f"queue|{w.queued}"),
        "session {queued} has no deadline queue|",
    ),
    "a starting session waits for ever": (
        lambda w: w.raw.zrem("deadlines", f"start|{w.starting}"),
        "session {starting} has no deadline start|",
    ),
    "a ready session waits for ever": (
        lambda w: w.raw.zrem("deadlines", f"join|{w.ready}", f"user|{w.ready}"),
        "session {ready} has no deadline join| or user| or gone|",
    ),
    "a call without an end": (
        lambda w: w.raw.zrem("deadlines", f"max|{w.active}"),
        "session {active} has no deadline max|",
    ),
    "a boot without an end": (
        lambda w: w.raw.zrem("deadlines", f"boot|{w.booting}"),
        "agent {booting} has no deadline boot|",
    ),
    "a warm agent may be silent for ever": (
        lambda w: w.raw.zrem("deadlines", f"beat|{w.warm}"),
        "agent {warm} has no deadline beat|",
    ),
    "an agent in a call may be silent for ever": (
        lambda w: w.raw.zrem("deadlines", f"beat|{w.active_agent}"),
        "agent {active_agent} has no deadline beat|",
    ),
    "an agent may leave for ever": (
        lambda w: w.raw.hset(f"agent:{w.ready_agent}", "state", "stopping"),
        "agent {ready_agent} has no deadline stop|",
    ),
    "a token outlives its session": (
        lambda w: w.raw.set(f"session:{w.over}:payload", "{}"),
        "session {over} is ended, and its payload is still there",
    ),
    "what was said outlives its session": (
        lambda w: w.raw.rpush(f"session:{w.over}:conversation", "{}"),
        "session {over} is ended, and its conversation is still there",
    ),
    "a session that waits has an agent": (
        lambda w: w.raw.hset(f"session:{w.starting}", "agentId", w.ready_agent),
        "session {starting} is starting, and has agent {ready_agent} already",
    ),
    "an agent serves no session": (
        lambda w: w.raw.hdel(f"agent:{w.active_agent}", "sessionId"),
        "agent {active_agent} is running for session None, which has no record",
    ),
    "the queue is too long": (
        lambda w: w.raw.hset("policy", "queue_limit", 0),
        "more sessions than 0 are queued",
    ),
    "a session is queued for nothing": (
        lambda w: w.raw.hdel("node:n1", "sessions") + w.raw.srem("session:starting", w.starting),
        "session {queued} is queued, and there is capacity for it",
    ),
    "a session waits beside a warm agent": (
        lambda w: w.raw.hset("node:n1", "sessions", 2),
        "session {starting} waits for an agent, and there are warm ones",
    ),
    "a user is found with a session that is over": (
        lambda w: w.raw.set("session:user:joan", w.over),
        "user 'joan' is found with session {over}, which is no live session of that user",
    ),
    "a user is found with another's session": (
        lambda w: w.raw.set("session:user:joan", w.active),
        "user 'joan' is found with session {active}, which is no live session of that user",
    ),
    "a user is found with a session without a record": (
        lambda w: w.raw.set("session:user:joan", "session_" + "0" * 32),
        "user 'joan' is found with session session_" + "0" * 32 + ", which is no live session of that user",
    ),
    "a draining node's agent is in the pool": (
        lambda w: w.raw.sadd("nodes:draining", "n1"),
        "pool:ready names agent {warm}, whose node n1 drains",
    ),
    "a session is over and nobody knows why": (
        lambda w: w.raw.hdel(f"session:{w.over}", "reason"),
        "session {over} is ended, and has no reason",
    ),
    "an agent has exited and nobody knows how": (
        lambda w: w.raw.hdel(f"agent:{w.over}", "cause"),
        "agent {over} is exited, and has no cause",
    ),
    "a session is kept for ever": (
        lambda w: w.raw.persist(f"session:{w.over}"),
        "session {over} is over, and session:{over} never expires",
    ),
    "what happened to a session is kept for ever": (
        lambda w: w.raw.persist(f"session:{w.over}:events"),
        "session {over} is over, and session:{over}:events never expires",
    ),
    "the room of a session is kept for ever": (
        lambda w: w.raw.persist(f"session:room:{w.raw.hget(f'session:{w.over}', 'roomName')}"),
        "session {over} is over, and session:room:room_",
    ),
    "an agent is kept for ever": (
        lambda w: w.raw.persist(f"agent:{w.over}"),
        "agent {over} is over, and agent:{over} never expires",
    ),
    "the log of an agent is kept for ever": (
        lambda w: w.raw.rpush(f"agent:{w.over}:logs", "hello"),
        "agent {over} is over, and agent:{over}:logs never expires",
    ),
    "the process of an agent is gone": (
        lambda w: w.raw.hset(f"agent:{w.active_agent}", "pid", 2**22 - 1),
        "agent {active_agent} is running, and its process 4194303 is gone",
    ),
    "the pid of an agent is a stranger's": (
        lambda w: w.raw.hset(f"agent:{w.active_agent}", "startTicks", 1),
        "agent {active_agent} is running, and its process {active_pid} is gone",
    ),
    "an agent without a pid": (
        lambda w: w.raw.hdel(f"agent:{w.active_agent}", "pid"),
        "agent {active_agent} is running and has no pid",
    ),
    "an agent that cannot be told from a stranger": (
        lambda w: w.raw.hdel(f"agent:{w.active_agent}", "startTicks"),
        "agent {active_agent} is running, and when its process {active_pid} has started is not recorded",
    ),
    "a process whose agent is gone by its record": (
        lambda w: w.raw.hset(f"agent:{w.active_agent}", "state", "exited"),
        "process {active_pid} lives as agent {active_agent}, which is exited",
    ),
    "a process whose agent nobody knows": (
        lambda w: w.raw.delete(f"agent:{w.active_agent}"),
        "process {active_pid} lives as agent {active_agent}, which has no record",
    ),
    "an agent is two processes": (
        lambda w: w.raw.hset(f"agent:{w.active_agent}", "pid", os.getpid()),
        "agent {active_agent} is process " + str(os.getpid()) + " by its record, and {active_pid} for the agent host",
    ),
} | {
    name: (partial(add_deadline, member), f"deadline {member} {text}")
    for name, (member, text) in WRONG_DEADLINES.items()
}


@pytest.mark.parametrize("name", IN_REDIS)
async def test_each_violation_in_redis_is_named(world: World, name: str) -> None:
    damage, words = IN_REDIS[name]
    done = damage(world)
    if asyncio.iscoroutine(done):
        await done
    expected = words.format(**vars(world), active_pid=world.pids[world.active_agent])
    found = await world.violations()
    assert any(violation.startswith(expected) for violation in found), found


#: Invariants that need a process or a host: each has a test below.
ELSEWHERE = {Code.ZOMBIE, Code.HOST_UNAVAILABLE, Code.AGENT_UNKNOWN_TO_HOST, Code.PROCESS_UNKNOWN_TO_HOST}


@pytest.mark.parametrize("code", sorted(set(Code) - ELSEWHERE))
def test_every_invariant_has_a_test_that_breaks_it(code: Code) -> None:
    text = re.compile(re.sub(r"\\{.+?\\}", ".*", re.escape(TEXTS[code])))
    assert any(text.match(words) for _, words in IN_REDIS.values()), f"no test breaks {code}"


async def test_an_agent_process_unknown_to_the_host_is_a_violation(world: World) -> None:
    """A process started by exec is recognised by its environment."""
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    orphan = new_id("prewarm")
    with (
        subprocess.Popen(command, env={"NODE_ID": world.settings.node_id, "AGENT_ID": orphan}) as process,
        subprocess.Popen(command, env={"NODE_ID": "elsewhere", "AGENT_ID": new_id("prewarm")}) as other,
    ):
        assert await world.violations() == [
            f"process {process.pid} belongs to agent {orphan}, and the agent host does not know it"
        ], "processes of other nodes are not checked"
        process.kill()
        other.kill()


class Forgetful:
    """Replaces a client: a host without agents, which does not scan for agents' own records."""

    async def hello(self) -> tuple[list[Process], list[Death]]:
        return [], []


async def test_a_recorded_process_unknown_to_the_host_is_a_violation(
    store: Store, raw: redis.Redis, tmp_path: Path
) -> None:
    """A forked agent has its host's environment, so it is recognised by the record that it has written."""
    settings = Settings(node_id="forgetful", run_dir=tmp_path)
    folder = AgentFolder(settings.agents_dir)
    forked, earlier, dead = (new_id("prewarm") for _ in range(3))
    with subprocess.Popen(["sleep", "1000"]) as process:
        identity = ProcessId.of(process.pid)
        assert identity is not None
        folder.write(Process(forked, process.pid, identity.start_ticks, machine_boot_id()))
        folder.write(Process(earlier, process.pid, identity.start_ticks, "another boot"))
        folder.write(Death(dead, process.pid, identity.start_ticks, machine_boot_id()))
        assert await in_words(store, settings, Forgetful()) == [
            f"process {process.pid} belongs to agent {forked}, and the agent host does not know it"
        ]
        process.kill()
    assert await in_words(store, settings, Forgetful()) == []


async def test_an_agent_unknown_to_the_host_is_a_violation(world: World, machine: Host) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        identity = ProcessId.of(process.pid)
        assert identity is not None
        pid, ticks = identity.pid, identity.start_ticks
        fresh = await copy_agent(world, world.active_agent, state="ready", pid=pid, startTicks=ticks, sessionId="")
        world.raw.sadd("pool:ready", fresh)
        world.raw.sadd(f"node:{world.settings.node_id}:warm", fresh)
        assert await world.violations() == [f"agent {fresh} is ready, and the agent host does not know it"]
        process.kill()


async def test_a_zombie_of_the_node_is_a_violation(world: World) -> None:
    code = "import os, signal; pid = os.fork() or os._exit(0); print(pid, flush=True); signal.pause()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env={"NODE_ID": world.settings.node_id}, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        poll(lambda: not alive(child), "the child is dead")
        (found,) = await world.violations()
        assert found.startswith(f"process {child} is dead, and ")
        assert found.endswith(f"(pid {parent.pid}) does not reap it")
        parent.kill()
    assert await world.violations() == []


async def test_a_zombie_of_a_sealed_program_is_a_violation(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root can read the process's environment, so it is recognised as a child of the node's supervisord."""
    (world.settings.run_dir / "supervisord.pid").write_text(str(os.getpid()))
    code = "import os, signal; pid = os.fork() or os._exit(0); print(pid, flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], env={}, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        poll(lambda: not alive(child), "the child is dead")
        readable = psutil.Process.environ

        def environ(process: psutil.Process) -> dict[str, str]:
            if process.pid == parent.pid:
                raise psutil.AccessDenied(process.pid)
            return readable(process)

        monkeypatch.setattr(psutil.Process, "environ", environ)
        found = await world.violations()
        parent.kill()
    assert len(found) == 1
    assert found[0].startswith(f"process {child} is dead, and ")
    assert found[0].endswith(f"(pid {parent.pid}) does not reap it")


async def test_only_lasting_violations_count(world: World) -> None:
    world.raw.srem("session:active", world.active)
    world.raw.sadd("pool:stale", world.over)

    def looks() -> int:
        return int(world.raw.info("commandstats")["cmdstat_scan"]["calls"])

    before = looks()
    looking = asyncio.create_task(world.violations(settle_seconds=1))
    async with asyncio.timeout(60):
        while looks() == before:  # noqa: ASYNC110 - until the check has begun
            await asyncio.sleep(0.01)
    world.raw.sadd("session:active", world.active)
    assert await looking == [f"pool:stale names agent {world.over}, which is exited"]


async def test_without_violations_the_check_does_not_wait(world: World) -> None:
    assert await asyncio.wait_for(world.violations(settle_seconds=1000), 10) == []


async def test_without_a_host_no_process_is_checked(world: World) -> None:
    assert await in_words(world.store, world.settings, None) == []
    elsewhere = Settings(node_id="elsewhere", run_dir=world.settings.run_dir / "none")
    assert await in_words(world.store, elsewhere, None) == []
    assert not elsewhere.agents_dir.exists(), "the check creates no folder"


async def test_an_unreachable_host_is_a_violation(world: World, machine: Host) -> None:
    client = await HostClient.connect(machine.run_dir / "host.sock", _ignore)
    await client.close()
    with suppress(HostUnavailable):
        await client.hello()
    (found,) = await in_words(world.store, world.settings, client)
    assert found.startswith("the agent host cannot be asked: ")


async def test_an_empty_redis_has_no_violations(store: Store, raw: redis.Redis, tmp_path: Path) -> None:
    raw.flushall()
    assert await in_words(store, Settings(node_id="nobody", run_dir=tmp_path), None) == []


async def test_the_command_checks_the_running_node(world: World, short_folder: Path) -> None:
    assert await asyncio.to_thread(violations, world.settings) == []
    folder = short_folder / "gone"
    folder.mkdir()
    (folder / "host.sock").touch()
    elsewhere = world.settings.model_copy(update={"run_dir": folder, "node_id": "elsewhere"})
    (found,) = await asyncio.to_thread(violations, elsewhere)
    assert found.startswith("no agent host listens on ")


async def test_a_busy_store_has_no_violations(store: Store, valkey_url: str, tmp_path: Path) -> None:
    """Records change while they are read: an inconsistent reading is not a violation."""
    done = asyncio.Event()

    async def live(user: str) -> None:
        while not done.is_set():
            session_id = (await assign(store, user)).session_id
            session = await store.session(session_id)
            assert session is not None
            if session.agent_id is None:
                await store.claim_agent(session_id, "n1")
                async with link(valkey_url, session_id) as agent:
                    session_id = await agent.ready(1) or session_id
                    session = await store.session(session_id)
            if session is None or session.agent_id is None:
                continue
            async with link(valkey_url, session.agent_id) as agent:
                with suppress(IllegalMove):  # another user's session got this agent first
                    await agent.joined()
                    await agent.presence(session_id, present=True)
            await store.end_session(session_id, "ended", words("enough"))
            await store.room_closed(session_id)
            await store.record_exit(session.agent_id, because("finished", exitCode=0), 0)

    users = [asyncio.create_task(live(f"user {number}")) for number in range(8)]
    settings = Settings(node_id="elsewhere", run_dir=tmp_path)
    try:
        for _ in range(5):
            assert await in_words(store, settings, None, settle_seconds=5) == []
    finally:
        done.set()
        await asyncio.gather(*users)
    assert (await store.reading()).stats["total_ended"] > 20
    assert await in_words(store, settings, None) == []
