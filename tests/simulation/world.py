"""The basis of a simulation: a seed, virtual time, processes that can die or be stopped, and a trace."""

import asyncio
import logging
import random
import traceback
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.store import Store
from tests.simulation.client import Client, Network
from tests.simulation.valkey import Valkey
from tests.simulation.virtual_time import VirtualLoop
from tests.support.agent_link import AgentLink


class Killed(BaseException):
    """The current process has been killed."""


class Process:
    """One process: its tasks, and whether they may continue."""

    def __init__(self, world: "World", name: str) -> None:
        self._world, self.name = world, name
        self.alive = True
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._at_end: list[Callable[[], None]] = []
        self.network = Network(world.valkey, world.dice, self.pass_on, lambda: self.alive)

    def start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run a coroutine, and all tasks that it starts, in this process."""
        before = CURRENT.set(self)
        try:
            task = asyncio.get_running_loop().create_task(work)
        finally:
            CURRENT.reset(before)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    async def pass_on(self) -> None:
        """Return unless this process is dead; if it is stopped, return when it continues."""
        while self.alive and not self._goes_on.is_set():
            await self._goes_on.wait()
        if not self.alive:
            raise asyncio.CancelledError

    def at_end(self, then: Callable[[], None]) -> None:
        """Add a function to call when the process has ended in any way."""
        self._at_end.append(then)

    def hang(self) -> None:
        """Stop, as after SIGSTOP: finished waits are delivered later."""
        self._goes_on.clear()

    def go_on(self) -> None:
        """Continue, as after SIGCONT."""
        self._goes_on.set()

    @property
    def hangs(self) -> bool:
        """Return whether the process is stopped."""
        return not self._goes_on.is_set()

    def end(self, how: str) -> None:
        """End immediately: none of its tasks runs any more."""
        if not self.alive:
            return
        self.alive = False
        self._world.say(self.name, how)
        self._goes_on.set()
        for task in list(self._tasks):
            task.cancel()
        for then in self._at_end:
            then()


#: The current process.
CURRENT: ContextVar[Process] = ContextVar("CURRENT")


class World:
    """One run: its seed determines all events."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.valkey: Valkey
        self._loop: VirtualLoop
        self.dice = random.Random(seed)
        self.trace: list[str] = []
        #: Armed faults, by point: the action, and a function that schedules the end of a stop.
        self.armed: dict[str, list[tuple[str, Callable[[float, Callable[[], object]], None]]]] = {}
        self.happened: set[tuple[str, str]] = set()

    def begin(self, loop: VirtualLoop, valkey: Valkey) -> None:
        """Begin with an empty Valkey."""
        self._loop, self.valkey = loop, valkey
        valkey.clear()

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self._loop.time()

    def say(self, who: str, what: str) -> None:
        """Write a line of the trace."""
        self.trace.append(f"{self.now:9.3f} {who}: {what}")

    def token(self, size: int = 32) -> str:
        """Replaces `secrets.token_hex`."""
        return f"{self.dice.getrandbits(8 * size):0{2 * size}x}"

    def arm(self, point: str, action: str, *, stands_still: float = 5.0) -> None:
        """Make this happen to the next process that passes a point. `stands_still`: when it continues."""

        def later(_: float, go_on: Callable[[], object]) -> None:
            asyncio.get_running_loop().call_later(stands_still, go_on)

        self.armed.setdefault(point, []).append((action, later))

    def hit(self, point: str) -> None:
        """Replaces `faults.hit`: do what is armed at this point, to the current process."""
        actions = self.armed.get(point)
        if not actions:
            return
        process, (action, later) = CURRENT.get(), actions.pop()
        self.say(process.name, f"{action} at {point}")
        self.happened.add((point, action))
        match action:
            case "kill":
                process.end("killed")
                raise asyncio.CancelledError
            case "hang":
                process.hang()
                later(self.dice.uniform(1, 15), process.go_on)
            case "raise":
                raise OrchestratorError(f"fault at {point}")

    def store(self, name: str, keep_seconds: float = 3600) -> Store:
        """Return a store for the current process."""
        return Store("redis://simulation", name=name, keep_seconds=keep_seconds)

    def link(self, agent_id: str) -> AgentLink:
        """Return an agent's link for the current process."""
        return AgentLink("redis://simulation", agent_id)

    @staticmethod
    def connect(*_: Any, **__: Any) -> Client:
        """Replaces `store.connection.connect`."""
        return Client(CURRENT.get().network)


class Logged(logging.Handler):
    """Adds the programs' log lines to the trace."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        more = {name: value for name, value in vars(record).items() if name in {"agent_id", "cause", "session"}}
        process = CURRENT.get(None)
        self._world.say(process.name if process else "?", f"logs: {record.getMessage()} {more or ''}")
        if record.exc_info and record.exc_info[1]:
            self._world.say("", "".join(traceback.format_exception(record.exc_info[1])))


class WorldClock:
    """The clock of the process that created it: after a wait, the task continues only when the process runs."""

    def __init__(self, process: Process, beginning: float) -> None:
        self._process, self._beginning = process, beginning

    def time(self) -> float:
        return self._beginning + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._process.pass_on()

    def timeout(self, seconds: float) -> Any:
        return asyncio.timeout(seconds)
