"""The async client of the agent host: requests with answers, and deaths as they happen."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from orchestrator.errors import HostUnavailable, SpawnFailed
from orchestrator.host.protocol import MAX_LINE, Death, Process
from orchestrator.machine.peer import peer_pid

OnDeath = Callable[[Death], Awaitable[None]]

#: The host answers from one thread; a fork of a large parent takes milliseconds, a burst of them a second.
REQUEST_SECONDS = 10.0
#: A trial of new code may take 60 s.
RELOAD_SECONDS = 90.0


class HostSilent(HostUnavailable):
    """The agent host is there and does not answer."""


class HostClient:
    """One connection to the agent host. Every request raises `HostUnavailable` when the connection is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_death: OnDeath) -> None:
        self._reader, self._writer = reader, writer
        self._on_death = on_death
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reloads: set[asyncio.Future[None]] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._reading = asyncio.create_task(self._read())
        #: What is wrong with the host; '' when nothing is.
        self.warning = ""

    @classmethod
    async def connect(cls, path: Path, on_death: OnDeath) -> Self:
        """Connect. Raises `HostUnavailable` when no host listens."""
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE)
        except OSError as failure:
            raise HostUnavailable(f"no agent host listens on {path}: {failure.strerror}") from None
        return cls(reader, writer, on_death)

    async def hello(self) -> tuple[list[Process], list[Death]]:
        """Return what lives, and the deaths that were not acknowledged."""
        reply = await self._request("hello")
        self.warning = reply.get("warning", "")  # a host of the release before has none
        return [Process(**row) for row in reply["agents"]], [Death(**row) for row in reply["deaths"]]

    async def spawn(self, agent_id: str) -> Process:
        """Start an agent. Raises `SpawnFailed` with the host's reason."""
        return Process(**(await self._request("spawn", agentId=agent_id))["process"])

    async def stop(self, agent_id: str, grace: float) -> bool:
        """Stop an agent: TERM now, KILL after `grace` seconds; False when it does not live here."""
        return bool((await self._request("stop", agentId=agent_id, grace=grace))["stopping"])

    async def acknowledge(self, agent_id: str) -> None:
        """Say that a death is recorded; the host forgets it."""
        await self._request("ack", agentId=agent_id)

    async def reload(self) -> None:
        """Have the host load the agent's new code, for agents to come; returns when it has been tried.

        The host closes the connection then, and listens again when it has loaded the new code.

        Raises:
            SpawnFailed: the new code cannot be loaded; the old code stays.
            HostUnavailable: the connection was lost before the result.
        """
        verdict: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reloads.add(verdict)
        try:
            await self._request("reload")
            async with asyncio.timeout(RELOAD_SECONDS):
                await verdict
        except TimeoutError:
            raise HostUnavailable(f"the agent host did not reload within {RELOAD_SECONDS:.0f} s") from None
        finally:
            self._reloads.discard(verdict)
            verdict.cancel()

    def kill(self) -> None:
        """Kill the host at the other end, because it hangs: the next one finds its agents. Linux only."""
        if pid := peer_pid(self._writer.get_extra_info("socket")):
            os.kill(pid, signal.SIGKILL)

    async def closed(self) -> None:
        """Wait until the connection is gone."""
        await asyncio.wait([self._reading])

    async def close(self) -> None:
        """Close the connection."""
        self._reading.cancel()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _request(self, op: str, **arguments: Any) -> dict[str, Any]:
        if self._reading.done():
            raise HostUnavailable
        request_id = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = answer
        try:
            self._writer.write(json.dumps({"id": request_id, "op": op, **arguments}).encode() + b"\n")
            await self._writer.drain()
            async with asyncio.timeout(REQUEST_SECONDS):
                return await answer
        except TimeoutError as failure:
            raise HostSilent(f"the agent host has not answered {op} for {REQUEST_SECONDS:g} s") from failure
        except OSError as failure:
            raise HostUnavailable(f"the agent host did not answer {op}: {failure!r}") from failure
        finally:
            self._pending.pop(request_id, None)

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                if "event" in message:
                    self._receive(message)
                    continue
                answer = self._pending.get(message["id"])
                if answer is None or answer.done():
                    continue
                if "error" in message:
                    answer.set_exception(SpawnFailed(message["error"]))
                else:
                    answer.set_result(message["ok"])
        except (OSError, ValueError):
            pass  # a cut or garbled connection is a closed one
        finally:
            waiting: list[asyncio.Future[Any]] = [*self._pending.values(), *self._reloads]
            for answer in waiting:
                if not answer.done():
                    answer.set_exception(HostUnavailable())

    def _receive(self, message: dict[str, Any]) -> None:
        match message["event"]:
            case "died":
                handler = asyncio.create_task(self._died(Death(**message["death"])))
                self._handlers.add(handler)
                handler.add_done_callback(self._handlers.discard)
            case "reload":
                for verdict in self._reloads:
                    if verdict.done():
                        continue
                    if message["error"] is None:
                        verdict.set_result(None)
                    else:
                        verdict.set_exception(SpawnFailed(message["error"]))

    async def _died(self, death: Death) -> None:
        await self._on_death(death)
