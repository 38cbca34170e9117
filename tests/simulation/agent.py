"""One agent process: sends the store the commands of agent_runtime/runtime.py, without speech and LiveKit."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from orchestrator import faults
from orchestrator.errors import IllegalMove, LiveKitUnavailable, OrchestratorError, StoreUnavailable
from orchestrator.host.protocol import Process as Identity
from orchestrator.reasons import Reason, because
from tests.simulation.livekit import NOTICES_SECONDS, Room
from tests.simulation.virtual_time import BEGINNING
from tests.simulation.world import Process

if TYPE_CHECKING:
    from tests.simulation.computer import Computer

END_SECONDS, LEAVE_SECONDS = 20.0, 1.0


class _Exits(Exception):
    """The agent exits by itself, with this exit code."""

    def __init__(self, code: int) -> None:
        self.code = code


class AgentProcess(Process):
    """An agent on a computer, which starts it and is notified of its exit."""

    def __init__(self, computer: "Computer", agent_id: str, pid: int) -> None:
        super().__init__(computer.world, f"{computer.name}.{agent_id[8:14]}")
        self.id, self.computer = agent_id, computer
        self.identity = Identity(agent_id, pid, pid * 10, computer.boot)
        self.code: int | None = None
        self.signal: int | None = None
        self.stopped = False
        self._stop: asyncio.Future[str]
        self._assigned: asyncio.Future[dict[str, Any]]
        self._goodbye = asyncio.Event()
        self._active_at: int | None = None
        self._given_up = False  #: it leaves its session without a report
        self.room: tuple[str, Room] | None = None
        #: Its connection to the room is lost, but it does not detect that.
        self.unaware = False
        self.version = computer.host.version
        self.at_end(self._vanish)

    def begin(self) -> None:
        """Start it."""
        self.start(self._main())

    def kill(self) -> None:
        """SIGKILL: it also works on a stopped process."""
        self.signal = self.signal or 9
        self.end("is killed")

    def terminate(self) -> None:
        """SIGTERM: it takes effect when the process runs."""
        self.stopped = True
        self._request_stop(because("node_stopping"))

    def _vanish(self) -> None:
        if self.room is not None:
            name, _ = self.room
            livekit = self.computer.livekit
            asyncio.get_running_loop().call_later(NOTICES_SECONDS, livekit.part, name, self.id)
        self.computer.ended(self)

    def _request_stop(self, reason: Reason) -> None:
        if not self._stop.done():
            self._stop.set_result(reason)

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.pass_on()

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        self._stop, self._assigned = loop.create_future(), loop.create_future()
        try:
            await self._live()
            self.code = 0
        except _Exits as end:
            self.code = end.code
        except OrchestratorError:
            self.code = 1
        self.end(f"exits with code {self.code}")

    async def _live(self) -> None:
        self._link = self._world.link(self.id)
        await self._pause(self._world.dice.uniform(*self.computer.boot_seconds))
        if self.computer.poisoned:
            raise _Exits(3)
        faults.hit("agent.before_ready")
        await self._say_ready()
        beating, reading = self.start(self._beat()), self.start(self._read_inbox())
        try:
            await asyncio.wait([self._stop, self._assigned], return_when=asyncio.FIRST_COMPLETED)
            await self.pass_on()
            if self._assigned.done():
                await self._serve(self._assigned.result())
            else:
                with contextlib.suppress(OrchestratorError, TimeoutError):
                    async with asyncio.timeout(LEAVE_SECONDS):
                        await self._link.leave(self._stop.result())
        finally:
            beating.cancel()
            reading.cancel()

    async def _say_ready(self) -> None:
        unsaid = False
        while not self._stop.done():
            try:
                await self._link.ready(self.identity.pid)
            except IllegalMove:
                if not unsaid:
                    raise
                return
            except StoreUnavailable:
                unsaid = True
                await self._pause(self.computer.settings.heartbeat_seconds / 5)
            else:
                return

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(OrchestratorError):
                state = await self._link.beat() or await self._register()
                if state in {"", "stopping", "exited"}:
                    self._given_up = True
                    self._request_stop(because("given_up"))
            await self._pause(self.computer.settings.heartbeat_seconds)

    async def _register(self) -> str:
        told: dict[str, Any] = {}
        if self._assigned.done():
            message = self._assigned.result()
            payload = {name: message[name] for name in ("type", "room", "token", "userId", "metadata")}
            told = {
                "id": message["sessionId"], "userId": message["userId"], "roomName": message["room"],
                "createdAt": message["createdAt"], "activeAt": self._active_at, "payload": json.dumps(payload),
                "conversation": [],
            }  # fmt: skip
        return await self._link.register(self.identity.pid, self.computer.name, told)

    async def _read_inbox(self) -> None:
        while True:
            try:
                message = await self._link.next_message()
            except OrchestratorError:
                await self._pause(self.computer.settings.heartbeat_seconds / 5)
                continue
            match message:
                case {"type": "stop", "reason": str() as text}:
                    self._request_stop(Reason(message["code"], message["params"], text))
                case {"type": "goodbye"} if self.computer.polite:
                    self._goodbye.set()
                case {"type": "assign"} if not self._assigned.done():
                    self._assigned.set_result(message)

    # The session

    async def _serve(self, assignment: dict[str, Any]) -> None:
        session, name = assignment["sessionId"], assignment["room"]
        self._world.say(self.name, f"has session {session[8:14]}")
        faults.hit("agent.before_join")
        if (room := await self._join(name)) is None:
            await self._leave(session, "stopped", self._stop.result())
            return
        self.room = name, room
        await self._say(self._link.joined)
        faults.hit("agent.joined")
        reporting = self.start(self._presence(session, name))
        outcome, reason = await self._until_the_end(name)
        reporting.cancel()
        self.computer.livekit.part(name, self.id)
        self.room = None
        await self._leave(session, outcome, reason)

    async def _join(self, name: str) -> Room | None:
        while not self._stop.done():
            await self._pause(self._world.dice.uniform(0.05, 0.3))
            try:
                return self.computer.livekit.join(name, self.id)
            except LiveKitUnavailable:
                await self._pause(0.5)
        return None

    async def _until_the_end(self, name: str) -> tuple[str, Reason]:
        """Wait until this agent leaves its session; returns the status and the reason."""
        while not self._stop.done():
            room = self.computer.livekit.rooms.get(name)
            if not self.unaware and (room is None or self.id not in room.agents):
                return "lost", because("agent_error", detail="the room is lost")
            if self._goodbye.is_set():
                await self._pause(0.5)
                return "ended", because("node_stopping")
            changed = (room or Room()).changed
            changes = [self.start(changed.wait()), self.start(self._goodbye.wait())]
            await asyncio.wait([self._stop, *changes], return_when=asyncio.FIRST_COMPLETED)
            for change in changes:
                change.cancel()
            await self.pass_on()
        return ("replaced" if self._given_up else "stopped"), self._stop.result()

    async def _presence(self, session: str, name: str) -> None:
        before = False
        while (room := self.computer.livekit.rooms.get(name)) is not None:
            changed, now = room.changed, room.user
            if now != before:
                if self.computer.tells:
                    lost = room.lost
                    await self._say(lambda: self._link.presence(session, present=now, lost=lost))  # noqa: B023
                before = now
                if now and self._active_at is None:
                    self._active_at = int((BEGINNING + self._world.now) * 1000)
            if room.user == before:
                await changed.wait()
                await self.pass_on()

    async def _leave(self, session: str, outcome: str, reason: Reason) -> None:
        link = self._link
        told: Callable[[], Awaitable[object]]
        match outcome:
            case "replaced":
                return
            case "lost":
                told = lambda: link.failed(reason)  # noqa: E731
            case "stopped":
                told = lambda: link.stopped(reason)  # noqa: E731
            case _:
                told = lambda: link.ended(session, outcome, reason)  # noqa: E731
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self._say(told)

    async def _say(self, tell: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await tell()
            except IllegalMove:
                return
            except OrchestratorError:
                await self._pause(self.computer.settings.heartbeat_seconds / 5)
            else:
                return
