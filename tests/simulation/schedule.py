"""One schedule: users start and end calls while processes die, stop and fail, in an order that the seed determines."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from orchestrator.errors import StoreUnavailable
from orchestrator.faults import ACTIONS, POINTS
from tests.simulation import promises
from tests.simulation.cluster import OVER, Cluster
from tests.simulation.computer import Computer
from tests.simulation.world import Process, World

#: Seconds during which events happen.
LENGTH = 6.0


class Trouble:
    """The events that can happen to a cluster. Each method causes one, chosen by the world's random numbers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._world, self._dice = cluster, cluster.world, cluster.world.dice
        #: Functions that end the lasting troubles.
        self._heal: list[Callable[[], object]] = []

    def all(self) -> list[tuple[int, Callable[[], Coroutine[Any, Any, None]]]]:
        """Return each kind of event with its weight."""
        return [
            (8, self.fault), (4, self.agent), (2, self.host), (3, self.worker), (2, self.api), (1, self.power),
            (3, self.redis), (1, self.loss), (1, self.livekit), (2, self.drain), (2, self.resize), (1, self.restart),
            (1, self.poison), (1, self.memory), (2, self.reload), (1, self.untold), (1, self.deserted),
            (1, self.entered), (1, self.drain_while_away),
        ]  # fmt: skip

    async def once(self) -> None:
        """Cause one event."""
        kinds = self.all()
        (kind,) = self._dice.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])
        self._world.say("trouble", kind.__name__)
        await kind()

    def heal(self) -> None:
        """End all lasting troubles."""
        self._world.say("trouble", "is over")
        self._world.armed.clear()
        while self._heal:
            self._heal.pop()()

    def _later(self, seconds: float, heal: Callable[[], object]) -> None:
        self._heal.append(heal)
        asyncio.get_running_loop().call_later(seconds, heal)

    def _computer(self) -> Computer:
        return self._dice.choice(self._cluster.computers)

    def _kill_or_hang(self, process: Process, seconds: float) -> None:
        if self._dice.random() < 0.6:
            process.end("is killed")
        else:
            self._world.say(process.name, "stands still")
            process.hang()
            self._later(seconds, process.go_on)

    async def fault(self) -> None:
        """Arm a fault point."""
        point, action = self._dice.choice(sorted(POINTS)), self._dice.choice(sorted(ACTIONS))
        self._world.say("trouble", f"{action} is armed at {point}")
        self._world.armed.setdefault(point, []).append((action, self._later))  # type: ignore[arg-type]

    async def agent(self) -> None:
        """Kill or stop (SIGSTOP) an agent."""
        if agents := self._cluster.agents:
            agent = self._dice.choice(agents)
            if self._dice.random() < 0.6:
                agent.kill()
            else:
                self._world.say(agent.name, "stands still")
                agent.hang()
                self._heal.append(agent.go_on)

    async def host(self) -> None:
        self._kill_or_hang(self._computer().host, self._dice.uniform(1, 15))

    async def worker(self) -> None:
        self._kill_or_hang(self._computer().worker, self._dice.uniform(1, 15))

    async def restart(self) -> None:
        """Stop a Celery worker as a deploy does, and start another one."""
        worker = self._computer().worker
        if worker.alive and not worker.hangs:
            await asyncio.wait([worker.start(worker.stop())])

    async def loss(self) -> None:
        """Make Redis restart empty."""
        self._cluster.lost = True
        self._world.valkey.lose_everything()

    async def api(self) -> None:
        self._kill_or_hang(self._cluster.api, self._dice.uniform(0.5, 3))

    async def power(self) -> None:
        """Lose a computer for a while."""
        computer = self._computer()
        if computer.on and sum(each.on for each in self._cluster.computers) > 1:
            computer.vanish()
            self._later(self._dice.uniform(3, 20), computer.start)

    async def redis(self) -> None:
        """Cut one process or all of them off from Redis."""
        some = [self._cluster.api, *(each.worker for each in self._cluster.computers), *self._cluster.agents]
        cut = [process for process in some if process.alive]
        if self._dice.random() < 0.6:
            cut = [self._dice.choice(cut)] if cut else []
        self._cut(cut, self._dice.choice(["refuses", "silent", "deaf"]))

    def _cut(self, cut: Sequence[Process], trouble: str) -> None:
        def back() -> None:
            for process in cut:
                process.network.trouble = ""

        for process in cut:
            process.network.trouble = trouble
        self._world.say("redis", f"{trouble} for {', '.join(process.name for process in cut)}")
        self._later(self._dice.uniform(0.2, 6), back)

    async def livekit(self) -> None:
        self._cluster.livekit.away = True

        def back() -> None:
            self._cluster.livekit.away = False

        self._later(self._dice.uniform(0.5, 6), back)

    async def drain(self) -> None:
        """Drain a node, and put it back into service later."""
        await self._drain(self._computer().name)

    async def _drain(self, name: str) -> None:
        async def undrain() -> None:
            while True:
                try:
                    await self._cluster.store.undrain_node(name)
                except StoreUnavailable:
                    await asyncio.sleep(0.5)
                else:
                    return

        await self._cluster.do(self._cluster.store.drain_node(name, self._dice.uniform(0, 6)))
        self._later(self._dice.uniform(0.5, 10), lambda: self._cluster.outside.start(undrain()))

    async def drain_while_away(self) -> None:
        """Drain a node and then cut it and its agents off from Redis for a while."""
        computer = self._computer()
        await self._drain(computer.name)
        self._cut([each for each in (computer.worker, *computer.living) if each.alive], "refuses")

    async def reload(self) -> None:
        """Reload the code of a node's agents."""
        await self._cluster.reload(self._computer())

    async def untold(self) -> None:
        """Make a node's agents not report who is in their rooms for a while."""
        computer = self._computer()
        computer.tells = False
        self._later(self._dice.uniform(1, 8), lambda: setattr(computer, "tells", True))

    async def deserted(self) -> None:
        """Remove an agent from its room without notifying it."""
        if inside := [agent for agent in self._cluster.agents if agent.room]:
            agent = self._dice.choice(inside)
            assert agent.room is not None
            self._world.say(agent.name, "is out of its room")
            agent.unaware = True
            self._cluster.livekit.drop(agent.room[0], agent.id)

    async def entered(self) -> None:
        """Make the client of an ended session join the room again."""
        over = [call for call in self._cluster.calls if call.room and call.states[-1] in OVER]
        if over and not self._cluster.livekit.away:
            self._cluster.livekit.join(self._dice.choice(over).room)

    async def resize(self) -> None:
        await self._cluster.do(self._cluster.store.set_target(self._dice.randrange(4)))

    async def poison(self) -> None:
        """Make agents fail at their start for a while."""
        computer = self._computer()
        computer.poisoned = True
        self._later(self._dice.uniform(1, 8), lambda: setattr(computer, "poisoned", False))

    async def memory(self) -> None:
        """Make a computer short of memory for a while."""
        computer = self._computer()
        computer.free_bytes = 1 << 20
        self._later(self._dice.uniform(1, 8), lambda: setattr(computer, "free_bytes", 8 << 30))


async def _user(cluster: Cluster, name: str) -> None:
    dice = cluster.world.dice
    await asyncio.sleep(dice.uniform(0, LENGTH))
    call = await cluster.begin(name)
    behaviour = dice.random()
    await cluster.talk(
        call, comes=behaviour > 0.15, seconds=dice.uniform(0.5, 6), hangs_up=behaviour > 0.35, dies=behaviour > 0.85
    )


async def schedule(world: World) -> None:
    """Run a whole schedule. Raises `Broken`."""
    dice = world.dice
    cluster = Cluster(
        world, dice.choice([1, 2, 2, 3]), max_sessions=dice.choice([2, 4, 6]), pool_target=dice.randrange(4)
    )
    for computer in cluster.computers:
        computer.polite = dice.random() < 0.5
    await cluster.start()
    trouble = Trouble(cluster)
    watch = promises.Watch(cluster)
    watching = cluster.outside.start(watch.run())
    users = [cluster.outside.start(_user(cluster, f"user{number}")) for number in range(dice.randrange(2, 8))]
    began, moments = world.now, sorted(dice.uniform(0, LENGTH) for _ in range(dice.randrange(1, 6)))
    for moment in moments:
        await asyncio.sleep(max(0.0, began + moment - world.now))
        await trouble.once()
    await asyncio.sleep(max(0.0, began + LENGTH - world.now))
    trouble.heal()
    world.say("test", f"quiet after {await promises.when_quiet(cluster):.1f} s")
    await asyncio.gather(*users)
    if watching.done():
        watching.result()
    watch.check()
