"""The agent host of a simulated computer, and the connection by which the Celery worker reaches it."""

import asyncio
from typing import TYPE_CHECKING

from orchestrator import faults
from orchestrator.errors import HostUnavailable, OrchestratorError, SpawnFailed
from orchestrator.host.client import HostSilent, OnDeath
from orchestrator.host.protocol import Death
from orchestrator.host.protocol import Process as Identity
from tests.simulation.agent import AgentProcess
from tests.simulation.world import CURRENT, Process

if TYPE_CHECKING:
    from tests.simulation.computer import Computer

SCAN_SECONDS = 2.0


class Host(Process):
    """The agent host."""

    def __init__(self, computer: "Computer") -> None:
        super().__init__(computer.world, f"{computer.name}.host")
        self.computer = computer
        #: Agents that this host knows.
        self.known: dict[str, AgentProcess] = {}
        self.clients: list[HostConnection] = []
        self.version = computer.version
        self.at_end(self._hang_up)

    def _hang_up(self) -> None:
        for client in self.clients:
            client.gone.set()

    async def scan_for_ever(self) -> None:
        """Scan at regular intervals."""
        while True:
            self.scan()
            await asyncio.sleep(SCAN_SECONDS)
            await self.pass_on()

    def scan(self) -> None:
        """Find the agents that were started before this host, and those that have died."""
        for process in [process for process in self.known.values() if not process.alive]:
            self._bury(process, seen=True)
        for agent_id, process in list(self.computer.records.items()):
            if agent_id in self.known or agent_id in self.computer.deaths:
                continue
            if process.alive:
                self.known[agent_id] = process
            else:
                self._bury(process, seen=False)

    def reap(self, process: AgentProcess) -> None:
        """Record an agent's end, if this host knows it."""
        if self.alive and not self.hangs and self.known.get(process.id) is process:
            self._bury(process, seen=True)

    def _bury(self, process: AgentProcess, *, seen: bool) -> None:
        self.known.pop(process.id, None)
        of = process.identity
        death = Death(
            of.agent_id, of.pid, of.start_ticks, of.boot_id,
            process.code if seen else None, process.signal if seen else None, stopped=process.stopped,
        )  # fmt: skip
        self.computer.deaths[process.id] = death
        for client in self.clients:
            client.report_death(death)

    def spawn(self, agent_id: str) -> Identity:
        """Start an agent."""
        if (process := self.known.get(agent_id)) is not None:
            return process.identity
        if agent_id in self.computer.records:
            self.scan()
            if (process := self.known.get(agent_id)) is not None:
                return process.identity
            raise SpawnFailed("an agent of this id has already died")
        process = self.computer.started(agent_id)
        before = CURRENT.set(self)
        try:
            faults.hit("host.after_fork")
        except asyncio.CancelledError:
            raise HostUnavailable from None
        except OrchestratorError as failure:
            raise SpawnFailed(failure.detail) from None
        finally:
            CURRENT.reset(before)
        self.known[agent_id] = process
        if not process.alive:
            self._bury(process, seen=True)
        return process.identity

    def reload(self) -> None:
        """Start agents with the newest code from now on."""
        if self.computer.broken:
            raise OrchestratorError("the agents' code cannot be loaded")
        self.version = self.computer.version

    def stop(self, agent_id: str, grace: float) -> bool:
        """TERM, grace, KILL."""
        if (process := self.known.get(agent_id)) is None:
            return False
        process.terminate()
        asyncio.get_running_loop().call_later(grace, process.kill)
        return True


class HostConnection:
    """A connection to the host: `HostClient`'s interface."""

    def __init__(self, host: Host, on_death: OnDeath) -> None:
        self._host, self._on_death, self._owner = host, on_death, CURRENT.get()
        self.gone = asyncio.Event()
        self.warning = ""
        host.clients.append(self)
        self._owner.at_end(self._close)

    def report_death(self, death: Death) -> None:
        """Report a death to the client."""
        if not self.gone.is_set() and self._owner.alive:
            self._owner.start(self._on_death(death))

    async def _reach(self) -> Host:
        await asyncio.sleep(self._host.computer.world.dice.uniform(0.0005, 0.005))
        await self._owner.pass_on()
        if self.gone.is_set() or not self._host.alive:
            raise HostUnavailable
        if self._host.hangs:
            await asyncio.sleep(10)
            await self._owner.pass_on()
            raise HostSilent("the agent host has not answered")
        return self._host

    async def hello(self) -> tuple[list[Identity], list[Death]]:
        host = await self._reach()
        host.scan()
        return [process.identity for process in host.known.values()], list(host.computer.deaths.values())

    async def spawn(self, agent_id: str) -> Identity:
        return (await self._reach()).spawn(agent_id)

    async def stop(self, agent_id: str, grace: float) -> bool:
        return (await self._reach()).stop(agent_id, grace)

    async def reload(self) -> None:
        await self._reach()
        await asyncio.sleep(self._host.computer.world.dice.uniform(0.2, 2))  # the code is tried first
        (await self._reach()).reload()

    async def acknowledge(self, agent_id: str) -> None:
        computer = (await self._reach()).computer
        if computer.deaths.pop(agent_id, None):
            computer.records.pop(agent_id, None)

    def kill(self) -> None:
        self._host.end("is killed by the Celery worker")

    async def closed(self) -> None:
        await self.gone.wait()
        await self._owner.pass_on()

    async def close(self) -> None:
        self._close()

    def _close(self) -> None:
        self.gone.set()
        if self in self._host.clients:
            self._host.clients.remove(self)
