"""A simulated LiveKit: the participants of each room, and whether it answers."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from orchestrator.errors import LiveKitUnavailable
from orchestrator.livekit.rooms import Presence
from tests.simulation.world import CURRENT, World

#: Seconds after which LiveKit detects that an agent's process is gone.
NOTICES_SECONDS = 1.0
#: Range of seconds after which it detects that a user's client is gone without leaving.
MISSES_SECONDS = (1.0, 6.0)


@dataclass
class Room:
    """One room: the ids of its agents, and whether the user is present."""

    agents: dict[str, None] = field(default_factory=dict)
    user: bool = False
    lost: bool = False  #: the user did not leave: the connection was lost
    #: Set whenever a participant joins or leaves.
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self) -> None:
        """Wake all tasks that wait for a participant to join or leave."""
        self.changed.set()
        self.changed = asyncio.Event()


class LiveKit:
    """The server; it has the interface of `Rooms` for the nodes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.away = False
        self.rooms: dict[str, Room] = {}

    # For agents and users

    def room(self, name: str) -> Room:
        """Return a room, created if necessary."""
        return self.rooms.setdefault(name, Room())

    def join(self, name: str, agent: str = "") -> Room:
        """Join a room as an agent, or as the user. Raises `LiveKitUnavailable`."""
        if self.away:
            raise LiveKitUnavailable("LiveKit does not answer")
        room = self.room(name)
        if agent:
            room.agents[agent] = None
        else:
            room.user, room.lost = True, False
        room.change()
        return room

    def lose(self, name: str) -> None:
        """Lose the user's client: it does not leave, so it stays in the room until LiveKit detects the loss."""
        seconds = self._world.dice.uniform(*MISSES_SECONDS)
        asyncio.get_running_loop().call_later(seconds, lambda: self.part(name, lost=True))

    def drop(self, name: str, agent: str) -> None:
        """Remove an agent from its room without notifying it or another participant."""
        self.rooms[name].agents.pop(agent, None)

    def part(self, name: str, agent: str = "", *, lost: bool = False) -> None:
        """Leave a room."""
        if (room := self.rooms.get(name)) is not None:
            if agent:
                room.agents.pop(agent, None)
            else:
                room.user, room.lost = False, lost
            room.change()

    # For nodes

    async def existing(self, names: Collection[str]) -> set[str]:
        await self._asked()
        return {name for name in names if (room := self.rooms.get(name)) and (room.agents or room.user)}

    async def present(self, name: str) -> tuple[Presence, bool]:
        await self._asked()
        room = self.rooms.get(name, Room())
        return "there" if room.user else "gone", bool(room.agents)

    async def delete(self, name: str) -> None:
        await self._asked()
        if (room := self.rooms.pop(name, None)) is not None:
            room.agents.clear()
            room.user = False
            room.change()

    async def leave(self, name: str) -> None:
        await self.delete(name)

    async def create(self, name: str) -> None:
        await self._asked()
        self.room(name)

    async def reachable(self) -> str | None:
        try:
            await self._asked()
        except LiveKitUnavailable as failure:
            return failure.detail
        return None

    async def _asked(self) -> None:
        await asyncio.sleep(self._world.dice.uniform(0.001, 0.02))
        await CURRENT.get().pass_on()
        if self.away:
            await asyncio.sleep(1)
            raise LiveKitUnavailable("LiveKit does not answer")
