"""A simulated deployment: nodes, an API process, beat, LiveKit and users on one Redis."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import pytest

from orchestrator import faults
from orchestrator.errors import OrchestratorError, StoreUnavailable
from orchestrator.models import Session
from orchestrator.pool.assignment import Assigner, SessionRequest, Started
from orchestrator.reasons import because
from orchestrator.settings import Settings
from orchestrator.states import SessionState
from orchestrator.store import keys
from orchestrator.store.keys import node_queue
from orchestrator.task_queue import app as tasks
from orchestrator.task_queue.app import PERIODIC
from tests.simulation.agent import AgentProcess
from tests.simulation.broker import Broker, Task
from tests.simulation.computer import RESTART_SECONDS, Computer
from tests.simulation.livekit import LiveKit
from tests.simulation.world import CURRENT, Logged, Process, World

#: Short waits, all different.
SETTINGS: dict[str, Any] = {
    "boot_timeout_seconds": 4, "start_timeout_seconds": 8, "join_timeout_seconds": 3, "user_join_seconds": 8,
    "user_gone_seconds": 4.5, "max_session_seconds": 25, "heartbeat_seconds": 2, "heartbeat_timeout_seconds": 6,
    "stop_grace_seconds": 1.5, "shutdown_seconds": 5, "goodbye_seconds": 2, "drain_seconds": 5, "queue_seconds": 12,
    "reconcile_seconds": 9, "session_keep_seconds": 3600, "spawn_concurrency": 4, "max_sessions": 6, "queue_limit": 3,
    "pool_target": 2, "rate_limit": "1000/second", "memory_headroom_mb": 256, "livekit_url": "ws://simulation",
    "livekit_api_key": "key", "livekit_api_secret": "secret",
}  # fmt: skip
T = TypeVar("T")
OVER = frozenset({SessionState.ENDED, SessionState.ERROR})


@cache
def _settings() -> Settings:
    return Settings(_env_file=None, run_dir="/nowhere", **SETTINGS)  # type: ignore[call-arg]


class Api(Process):
    """One run of the API process: does the same as `POST /api/session/start`, without HTTP."""

    def __init__(self, cluster: "Cluster") -> None:
        super().__init__(cluster.world, "api")
        self._cluster = cluster
        first = cluster.computers[0]
        self._settings = first.settings
        self.start(self._serve(first))
        self.ready: asyncio.Event = asyncio.Event()

    async def _serve(self, first: Computer) -> None:
        self.store = self._world.store("api")
        tokens = lambda room: {"token": f"token of {room}"}  # noqa: E731
        self._assigner = Assigner(self.store, self._settings, tokens, first.may_live)
        self.ready.set()

    async def begin(self, request: SessionRequest) -> Started:
        """Start a session."""
        started = await self._assigner.start(request)
        if started.spawn:
            faults.hit("api.after_assign")
            try:
                self._cluster.broker.publish(Task(tasks.SPAWN_AGENT, (started.session_id,)))
            except StoreUnavailable:
                await self.store.end_session(started.session_id, SessionState.ERROR, because("spawn_not_queued"))
                await self.store.release_key(request.idempotency_key)
                raise
        if started.refill:
            with contextlib.suppress(StoreUnavailable):
                self._cluster.broker.publish(Task(tasks.REFILL), expires=25)
        return started


@dataclass
class Call:
    """One user's call, and what the user has observed."""

    user: str
    asked_at: float
    answered_at: float | None = None
    refused: str = ""
    session_id: str = ""
    state: str = ""  #: the time of the answer
    position: int | None = None
    room: str = ""  #: once the user has joined it
    states: list[str] = field(default_factory=list)


class Cluster:
    """The deployment. Create it within `patched` and a running loop."""

    def __init__(self, world: World, nodes: int = 2, **settings: Any) -> None:
        self.world = world
        self.broker, self.livekit = Broker(world), LiveKit(world)
        self.computers = [
            Computer(world, _settings().model_copy(update={"node_id": name} | settings), self.broker, self.livekit)
            for name in "abcd"[:nodes]
        ]
        self.settings = self.computers[0].settings
        self.calls: list[Call] = []
        #: Redis has lost all data: waiting sessions are lost, and the limit may be exceeded.
        self.lost = False
        #: Reloads of the agents' code: id, node and version.
        self.reloads: list[tuple[str, Computer, int]] = []
        self.api: Api
        self.outside, self._instant = Process(world, "test"), Process(world, "oracle")

    async def start(self, *, full: bool = True) -> None:
        """Start everything, and wait until the pool is at its target, or at least until starts are answered."""
        for computer in self.computers:
            computer.start()
        self._run_api()
        for name, (task, every, expires) in PERIODIC.items():
            self.outside.start(self._beat(name, task, every, expires))
        self.outside.start(self._make_store())
        await asyncio.sleep(0)
        await self.until(self.full if full else self.store.configured, "the pool is full", 30)

    async def _make_store(self) -> None:
        self.store = self.world.store("test")
        before = CURRENT.set(self._instant)
        self.oracle = self.world.store("oracle")
        CURRENT.reset(before)

    def _run_api(self) -> None:
        self.api = Api(self)
        self.api.at_end(
            lambda: asyncio.get_running_loop().call_later(self.world.dice.uniform(*RESTART_SECONDS), self._run_api)
        )

    async def _beat(self, _name: str, task: str, every: int, expires: int) -> None:
        while True:
            with contextlib.suppress(StoreUnavailable):
                self.broker.publish(Task(task), expires=expires)
            await asyncio.sleep(every)

    def at_once(self, work: Coroutine[Any, Any, T]) -> T:
        """Read from the store without letting time pass."""
        self._instant.network.instant = True
        before = CURRENT.set(self._instant)
        try:
            work.send(None)
        except StopIteration as done:
            found: T = done.value
            return found
        finally:
            CURRENT.reset(before)
        raise AssertionError("it waits")

    async def do(self, work: Any) -> Any:
        """Run something that does not belong to a process of the deployment."""
        return await self.outside.start(work)

    async def until(self, holds: Any, what: str, seconds: float) -> float:
        """Wait until a coroutine function returns a true value; returns the seconds that this took."""
        began = self.world.now
        while not await self.do(holds()):
            if self.world.now - began > seconds:
                raise AssertionError(f"not within {seconds:g} s: {what}")
            await asyncio.sleep(0.1)
        return self.world.now - began

    async def full(self) -> bool:
        """Return whether the pool is at its target."""
        warm, booting, target = self.pool()
        return bool(warm == self.wanted(target) and not booting and await self.store.configured())

    def pool(self) -> tuple[int, int, int]:
        """Return the numbers of warm and booting agents, and the target. Takes no virtual time."""
        names = [("SCARD", keys.POOL_READY), ("SCARD", keys.POOL_STARTING), ("GET", keys.POOL_TARGET)]
        warm, booting, target = self.world.valkey.peek(names)
        return int(warm), int(booting), int(target or 0)

    def wanted(self, target: int) -> int:
        """Return the wanted number of warm agents: the target, but at least one on each node."""
        return max(target, len(self.computers)) if target else 0

    @property
    def boots(self) -> int:
        """The number of agent processes that were ever started."""
        return sum(computer.boots for computer in self.computers)

    @property
    def agents(self) -> list[AgentProcess]:
        """The running agent processes of all nodes."""
        return [process for computer in self.computers for process in computer.living]

    def process_of(self, session: Session) -> AgentProcess | None:
        """Return the running process of a session's agent."""
        return next((each for each in self.agents if each.id == session.agent_id), None)

    async def session(self, call: "Call") -> Session:
        """Return the session of a call."""
        found = await self.do(self.store.session(call.session_id))
        assert isinstance(found, Session)
        return found

    async def code(self, call: "Call") -> str:
        """Return the code of the reason for which a call's session ended, or '' while it is live."""
        reason = (await self.session(call)).reason
        return reason.code if reason else ""

    async def served(self, call: "Call", seconds: float, *, but: str = "") -> Session:
        """Wait until a call has a living agent in its room that is not `but`."""

        async def good() -> bool:
            found = await self.session(call)
            agent = self.process_of(found)
            room = self.livekit.rooms.get(found.room_name)
            return bool(
                found.status in {SessionState.READY, SessionState.ACTIVE}
                and agent is not None
                and agent.id != but
                and room is not None
                and list(room.agents) == [agent.id]
            )

        await self.until(good, f"{call.user} has a living agent in the room", seconds)
        return await self.session(call)

    async def end(self, call: "Call") -> None:
        """End a user's call."""
        await self.do(self.store.end_session(call.session_id, SessionState.ENDED, because("stopped_by_caller")))

    async def reload(self, computer: Computer, *, broken: bool = False) -> str:
        """Make a node load new code for its agents, as `POST /api/reload` does; returns the reload's id."""
        computer.version, computer.broken = computer.version + 1, broken
        reload_id = self.world.token(4)
        self.reloads.append((reload_id, computer, computer.version))
        await self.do(self.store.note_reload(reload_id, computer.name, "waiting"))
        await self.do(self._publish(Task(tasks.RELOAD, (reload_id,), node_queue(computer.name))))
        return reload_id

    async def _publish(self, task: Task) -> None:
        self.broker.publish(task, expires=120)

    # Users

    async def begin(self, user: str, *, affinity: bool = False) -> Call:
        """Start a session, like a client that retries while there is no answer; returns the outcome."""
        call = Call(user, self.world.now)
        self.calls.append(call)
        request = SessionRequest(user, {}, idempotency_key=f"{user}-{self.world.token(4)}", affinity=affinity)
        while True:
            api = self.api
            asking = api.start(api.begin(request))
            try:
                started = await asking
            except asyncio.CancelledError:
                if api.alive:
                    raise
            except StoreUnavailable:
                pass
            except OrchestratorError as refusal:
                if type(refusal) is OrchestratorError:  # 500: the start may have succeeded, so it is repeated
                    await asyncio.sleep(0.5)
                    continue
                call.refused = f"{type(refusal).__name__}: {refusal.detail}"
                break
            else:
                call.session_id, call.state, call.position = started.session_id, started.status, started.position
                break
            await asyncio.sleep(0.5)
        call.answered_at = self.world.now
        self.world.say(user, f"is answered {call.session_id[8:14] or call.refused}")
        return call

    async def talk(
        self, call: Call, *, comes: bool = True, seconds: float = 5.0, hangs_up: bool = True, dies: bool = False
    ) -> None:
        """Be in the room while there is a session, then leave or end the call. `dies`: the client is killed, so it does
        not leave the room."""
        if not call.session_id:
            return
        name, joined_at = "", None
        while True:
            with contextlib.suppress(StoreUnavailable):
                session = await self.store.session(call.session_id)
                state = session.status.value if session else "gone"
                if call.states[-1:] != [state]:
                    call.states.append(state)
                    self.world.say(call.user, f"sees {state}")
                if session is None or session.status in OVER:
                    break
                if comes and joined_at is None and session.status in {SessionState.READY, SessionState.ACTIVE}:
                    with contextlib.suppress(OrchestratorError):
                        name, joined_at = session.room_name, self.world.now
                        self.livekit.join(name)
                        call.room = name
                if joined_at is not None and self.world.now - joined_at > seconds:
                    if dies:
                        self.world.say(call.user, "is killed")
                        self.livekit.lose(name)
                        return
                    if hangs_up:
                        await self.store.end_session(call.session_id, SessionState.ENDED, because("stopped_by_caller"))
                    self.livekit.part(name)
                    comes = False
            await asyncio.sleep(0.75)
        if name:
            self.livekit.part(name)


@contextlib.contextmanager
def patched(world: World) -> Iterator[None]:
    """Replace a process's access to its machine by the world's: random numbers, Redis's address, fault points."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "hit", world.hit)
        patch.setattr(secrets, "token_hex", lambda size=32: world.token(size))
        for name in ("connect", "connect_blocking"):
            patch.setattr(f"orchestrator.store.base.{name}", world.connect)
            patch.setattr(f"tests.support.agent_link.{name}", world.connect)
        # Half as often as in production, because periodic requests of nodes are most of a schedule's cost.
        patch.setattr("orchestrator.worker.node.DEADLINE_SECONDS", 0.5)
        # More ids than any cluster here lacks agents.
        patch.setattr("orchestrator.pool.refill.REFILL_BATCH", 16)
        # Agents of the simulation print nothing.
        patch.setattr("orchestrator.worker.log_shipper.LogShipper._read", lambda *_: (b"", 0))
        logged, log = Logged(world), logging.getLogger("orchestrator")
        patch.setattr(log, "handlers", [logged])
        patch.setattr(log, "propagate", False)
        patch.setattr(log, "level", logging.INFO)
        yield
