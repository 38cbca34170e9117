"""The relay's socket: who connects, and which agents have a message.

Failure cases: a process that is not the agent it names → its hello is refused; Redis does not answer → connections
stay, and their inboxes are read again at the agents' heartbeats.
"""

import asyncio
import contextlib
import json
import logging
import os

from orchestrator.config.node import NodeSettings
from orchestrator.errors import NotTheAgent, OrchestratorError, Preflight
from orchestrator.host.state_dir import AgentFolder
from orchestrator.machine.peer import peer_pid
from orchestrator.relay import peer
from orchestrator.relay.connection import Connection, refusal, send
from orchestrator.relay.protocol import MAX_LINE
from orchestrator.store.relay_store import RelayStore

log = logging.getLogger("orchestrator.relay")

#: Seconds that a process has for its hello.
HELLO_SECONDS = 10.0
#: Seconds until a mail list that could not be read is read again.
RETRY_SECONDS = 0.25


class Relay:
    """The relay of one node."""

    def __init__(self, settings: NodeSettings) -> None:
        self._socket, self._node = settings.relay_socket, settings.node_id
        self._folder = AgentFolder(settings.agents_dir)
        self._store = RelayStore(settings.redis)
        self._connections: dict[str, Connection] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Serve until cancelled. Raises `Preflight` when the socket cannot be used."""
        # Bound under a umask, so that another user can never connect.
        mask = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._accept, self._socket, limit=MAX_LINE, backlog=512)
        except OSError as failure:
            raise Preflight(f"the relay cannot listen on {self._socket}: {failure}. Set a shorter RUN_DIR.") from None
        finally:
            os.umask(mask)
        try:
            await self._follow_mail()
        finally:
            server.close()
            for connection in list(self._connections.values()):
                connection.close()
            self._socket.unlink(missing_ok=True)
            await self._store.close()

    async def idle(self) -> None:
        """Wait until no agent is connected."""
        await self._idle.wait()

    async def _follow_mail(self) -> None:
        failed = False
        while True:
            try:
                agent_id = await self._store.next_mail(self._node)
            except OrchestratorError as failure:
                if not failed:
                    log.warning("the agents' mail cannot be read: %s", failure.detail)
                failed = True
                await asyncio.sleep(RETRY_SECONDS)
                continue
            failed = False
            if agent_id in self._connections:
                self._connections[agent_id].deliver()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                agent_id = await self._hello(reader, writer)
        except (OSError, ValueError, TimeoutError):
            agent_id = None
        if agent_id is None:
            writer.close()
            return
        connection = Connection(self._store, agent_id, reader, writer)
        if before := self._connections.pop(agent_id, None):
            before.close()
        self._connections[agent_id] = connection
        self._idle.clear()
        try:
            await connection.serve()
        finally:
            if self._connections.get(agent_id) is connection:
                del self._connections[agent_id]
            if not self._connections:
                self._idle.set()

    async def _hello(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str | None:
        """Return which agent has connected; None when it may not."""
        try:
            request = json.loads(await reader.readline())
            if request["op"] == "ping":
                send(writer, {"id": request["id"], "ok": None})
                return None
            number, agent_id = request["id"], _safe(request["args"][0])
        except (ValueError, KeyError, TypeError, IndexError):
            return None
        pid = peer_pid(writer.get_extra_info("socket"))
        # guard: relay-peer
        if not peer.is_agent(pid, agent_id, self._folder):
            words = f"process {pid} says that it is agent {agent_id}, and is not what the agent host has started for it"
            log.warning("refused: %s", words)
            send(writer, {"id": number, **refusal(await self._refuse(pid or 0, agent_id, NotTheAgent(words)))})
            await writer.drain()
            return None
        send(writer, {"id": number, "ok": None})
        return agent_id

    async def _refuse(self, pid: int, agent_id: str, why: OrchestratorError) -> OrchestratorError:
        """Return why a process is refused. One that its agent's wrapper has left behind has the boot fail at once."""
        if pid and peer.runs_as(pid, agent_id):
            with contextlib.suppress(OrchestratorError):
                try:
                    await self._store.reports(agent_id).ready(*peer.lineage(pid))
                except NotTheAgent as failure:
                    return failure
        return why


def _safe(agent_id: object) -> str:
    """Refuse an id that would be a path of its own."""
    if not isinstance(agent_id, str) or not agent_id.replace("_", "").isalnum():
        raise ValueError("bad agent id")
    return agent_id
