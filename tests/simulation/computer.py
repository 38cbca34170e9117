"""One simulated computer: an agent host, a Celery worker with the real services of a node, agents."""

import asyncio
from typing import TYPE_CHECKING, NoReturn

from orchestrator.errors import BootElsewhere, HostUnavailable, OrchestratorError
from orchestrator.host.client import OnDeath
from orchestrator.host.protocol import Death
from orchestrator.models import Agent, new_id
from orchestrator.settings import Settings
from orchestrator.store.keys import CELERY_QUEUE, node_queue
from orchestrator.task_queue import app as tasks
from orchestrator.worker.boots import given_up_after
from orchestrator.worker.examine import Finding
from orchestrator.worker.node import Machine, Node
from orchestrator.worker.task_queue import TaskQueue
from tests.simulation.agent import AgentProcess
from tests.simulation.broker import Broker, Task
from tests.simulation.host import Host, HostConnection
from tests.simulation.livekit import LiveKit
from tests.simulation.virtual_time import BEGINNING
from tests.simulation.world import Process, World, WorldClock

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

#: Range of seconds after which a supervisor restarts a program.
RESTART_SECONDS = (0.5, 2.0)
SPAWN_RETRIES = 3
THREADS = 4


class Computer:
    """One node."""

    def __init__(self, world: World, settings: Settings, broker: Broker, livekit: LiveKit) -> None:
        self.world, self.settings, self.broker, self.livekit = world, settings, broker, livekit
        self.name = settings.node_id
        self.boot = f"boot of {self.name}"
        #: Range of seconds that an agent takes to load.
        self.boot_seconds = (0.1, 1.5)
        self.poisoned = False
        #: Whether agents say goodbye and leave when their node is about to stop.
        self.polite = True
        #: Whether agents report who is in their room.
        self.tells = True
        #: The version of the agents' code; a broken one cannot be loaded.
        self.version, self.broken = 1, False
        self.free_bytes = 8 << 30
        self.on = True
        #: The agents' records on disk: every process that was started and whose death is not recorded.
        self.records: dict[str, AgentProcess] = {}
        self.deaths: dict[str, Death] = {}
        self.boots = 0
        self.host = Host(self)
        self.worker = Worker(self)

    def start(self) -> None:
        """Start all its programs."""
        self.on = True
        self._run_host()
        self._run_worker()

    def _run_host(self) -> None:
        if self.on:
            self.host = Host(self)
            self.host.at_end(lambda: self._later(self._run_host))
            self.host.start(self.host.scan_for_ever())

    def _run_worker(self) -> None:
        if self.on:
            self.worker = Worker(self)
            self.worker.at_end(lambda: self._later(self._run_worker))
            self.worker.start(self.worker.run())

    def _later(self, start: "Any") -> None:
        asyncio.get_running_loop().call_later(self.world.dice.uniform(*RESTART_SECONDS), start)

    def vanish(self) -> None:
        """Lose power: all processes are gone without a report."""
        self.on = False
        self.world.say(self.name, "vanishes")
        for process in [self.worker, self.host, *self.records.values()]:
            process.end("is gone")

    @property
    def living(self) -> list[AgentProcess]:
        """The running agent processes."""
        return [process for process in self.records.values() if process.alive]

    def started(self, agent_id: str) -> AgentProcess:
        """Start an agent process."""
        self.boots += 1
        process = AgentProcess(self, agent_id, 1000 + self.boots)
        self.records[agent_id] = process
        process.begin()
        return process

    def ended(self, process: AgentProcess) -> None:
        """Record an agent's exit."""
        if self.host.alive:
            delay = self.world.dice.uniform(0.001, 0.01)
            asyncio.get_running_loop().call_later(delay, self.host.reap, process)

    def may_live(self, node: str, pid: int, _ticks: int) -> bool:
        """Replaces `machine.process.may_live`."""
        if node != self.name or not pid:
            return True
        return any(process.identity.pid == pid for process in self.living)

    def examine(self, agent: Agent, _limit: int) -> Finding:
        """Replaces `examine`."""
        gone = agent.pid is not None and not self.may_live(self.name, agent.pid, 0)
        return Finding("process gone or zombie" if gone else None, memory=64 << 20)


class Worker(Process):
    """The Celery worker: the node's services, and the tasks of orchestrator/worker/tasks.py in its threads."""

    def __init__(self, computer: Computer) -> None:
        super().__init__(computer.world, f"{computer.name}.worker")
        self.computer = computer
        self.node: Node
        self._consumes_shared = True

    async def run(self) -> None:
        """Run until this process ends."""
        computer, broker = self.computer, self.computer.broker
        own = node_queue(computer.name)
        queue = TaskQueue(
            stop_elsewhere=lambda agent_id, node: broker.publish(
                Task(tasks.STOP_AGENT, (agent_id,), node_queue(node)), expires=120
            ),
            send_canary=lambda: broker.publish(Task(tasks.CANARY, (), own), expires=30),
            consume=self._consume_shared,
            send_alert=lambda *_: None,
        )
        machine = Machine(
            WorldClock(self, BEGINNING), self._connect, computer.may_live, computer.examine,
            lambda: computer.free_bytes, self._end_process,
        )  # fmt: skip
        store = computer.world.store(f"node.{computer.name}")
        self.node = Node(computer.settings, store, computer.livekit, queue, machine)  # type: ignore[arg-type]
        self.node.start()
        for _ in range(THREADS):
            self.start(self._work())
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Stop as after SIGTERM."""
        await self.node.stop()
        self.end("stops")

    async def _connect(self, on_death: OnDeath) -> HostConnection:
        host = self.computer.host
        if not host.alive:
            raise HostUnavailable("no agent host listens")
        return HostConnection(host, on_death)

    def _consume_shared(self, yes: bool) -> None:
        self._consumes_shared = yes

    def _end_process(self, code: int) -> NoReturn:
        self.end(f"exits with code {code}")
        raise asyncio.CancelledError

    async def _work(self) -> None:
        own = node_queue(self.computer.name)
        while True:
            task = await self.computer.broker.take([own, *([CELERY_QUEUE] if self._consumes_shared else ())])
            late = task.name == tasks.SPAWN_AGENT
            if late:
                self.at_end(again := lambda task=task: self.computer.broker.redeliver(task))  # type: ignore[misc]
            try:
                await self._do(task)
            except OrchestratorError as failure:
                self.computer.world.say(self.name, f"{task.name} failed: {failure.detail}")
            if late:
                self._at_end.remove(again)

    async def _do(self, task: Task) -> object:
        node = self.node
        work: Coroutine[Any, Any, object]
        match task.name:
            case tasks.SPAWN_AGENT:
                work = self._spawn_agent(task, *task.args)
            case tasks.REFILL:
                work = node.pool.refill()
            case tasks.CANARY:
                return node.canary.note()
            case tasks.STOP_AGENT:
                work = node.stops.here(*task.args)
            case tasks.HEALTH_CHECK:
                for name in await node.nodes():
                    self.computer.broker.publish(Task(tasks.CHECK_NODE, (), node_queue(name)), expires=50)
                return None
            case tasks.CHECK_NODE:
                work = node.checks.check()
            case tasks.RELOAD:
                work = node.reload.reload(*task.args)
            case tasks.CLEANUP_STALE:
                work = node.clean_up.run()
            case unknown:
                raise AssertionError(unknown)
        try:
            async with asyncio.timeout(self.computer.settings.boot_timeout_seconds + 30):
                return await work
        except TimeoutError:
            raise OrchestratorError("a task did not finish in time") from None

    async def _spawn_agent(self, task: Task, session_id: str) -> None:
        """The same as in tasks.py."""
        agent_id = session_id if task.attempt == 0 else new_id("prewarm")
        anywhere = task.attempt == 0 and task.queue == CELERY_QUEUE
        boots, broker = self.node.boots, self.computer.broker
        try:
            await boots.for_session(session_id, agent_id, announce=task.attempt > 0, anywhere=anywhere)
        except BootElsewhere as better:
            broker.publish(Task(task.name, task.args, node_queue(better.node)))
        except OrchestratorError as failure:
            if task.attempt >= SPAWN_RETRIES:
                await boots.fail_session(session_id, given_up_after(task.attempt + 1, failure))
                return
            pause = 2**task.attempt * self.computer.world.dice.uniform(0.5, 1.0)
            broker.publish(Task(task.name, task.args, task.queue, task.attempt + 1), after=pause)
