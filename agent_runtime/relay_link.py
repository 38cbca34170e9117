"""An agent's link to its node's relay, which alone knows Redis: requests with answers, and the messages of the inbox.

`orchestrator/relay/protocol.py` describes the lines. A lost connection is made again, with growing pauses, and requests
without an answer are sent again: the store takes each of them twice.
Failure cases: the relay is away or silent for `PATIENCE` → `StoreUnavailable`, as when Redis itself does not answer; it
says that this process is not the agent → `NotTheAgent`, to every request from then on.
"""

import asyncio
import itertools
import json
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import IllegalMove, NotTheAgent, OrchestratorError, StoreUnavailable
from orchestrator.reasons import Reason
from orchestrator.relay.protocol import ERRORS, MAX_LINE

log = logging.getLogger("agent.runtime")

#: Seconds for an answer: the relay itself waits up to 4 s for Redis.
PATIENCE = 6.0
#: Seconds that the next message is waited for at most.
WAIT_SECONDS = 4.0
#: The first and the longest pause before a connection is made again, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
#: Messages that are remembered, so that one that comes twice is taken once.
REMEMBERED = 64


@dataclass(slots=True)
class _Request:
    number: int
    line: bytes
    answer: "asyncio.Future[Any]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    sent: int = 0  #: how often

    def send(self, writer: asyncio.StreamWriter) -> None:
        """Send it, possibly again."""
        self.sent += 1
        writer.write(self.line)

    def settle(self, answer: Mapping[str, Any]) -> None:
        """Give its caller the relay's answer."""
        if self.answer.done():
            return
        if "error" in answer:
            self.answer.set_exception(ERRORS.get(answer["error"], OrchestratorError)(answer["detail"]))
        else:
            self.answer.set_result(answer["ok"])


class RelayLink:
    """One agent's connection. Every report raises `StoreUnavailable` when the relay or Redis does not answer."""

    def __init__(self, socket: Path, agent_id: str) -> None:
        self.agent_id, self._socket = agent_id, socket
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Request] = {}
        self._inbox: asyncio.Queue[str] = asyncio.Queue()
        self._received: deque[str] = deque(maxlen=REMEMBERED)
        self._inbox_trouble: str | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._refused: NotTheAgent | None = None
        self._keeper: asyncio.Task[None] | None = None

    # What an agent reports

    async def ready(self, pid: int, *ancestors: int) -> str | None:
        """Say that this agent is warm, and which process it is. Returns the id of a session that was already waiting.

        Raises:
            NotTheAgent: the process is neither the one that the agent host has started nor a descendant of it.
        """
        request = self._new("ready", pid, *ancestors)
        try:
            session_id: str | None = await self._answer(request)
            return session_id
        except IllegalMove as failure:
            if request.sent > 1:
                # The first report may have arrived: the caller, who does not know that it was sent twice, asks again.
                raise StoreUnavailable(f"the answer to the first report was lost ({failure.detail})") from None
            raise

    async def beat(self) -> str:
        """Say that this agent lives. Returns its state in the store, '' when the store has no record of it."""
        return str(await self._ask("beat"))

    async def joined(self) -> None:
        """Say that this agent is in its room."""
        await self._ask("joined")

    async def no_room(self, words: str) -> None:
        """Report that LiveKit neither has nor creates the room: a node creates it. `words`: LiveKit's error."""
        await self._ask("no_room", words)

    async def presence(self, session_id: str, *, present: bool, lost: bool = False) -> None:
        """Report whether the user is in the room with this agent; `lost`: the connection broke without a leave."""
        await self._ask("presence", session_id, present, lost)

    async def first_audio(self, session_id: str) -> None:
        """Report that the user can hear this agent. Only the first report counts."""
        await self._ask("first_audio", session_id)

    async def turn(self, session_id: str, turn: Mapping[str, Any]) -> None:
        """Keep one turn of the conversation, for an agent that may have to take over."""
        await self._ask("turn", session_id, dict(turn))

    async def register(self, pid: int, node: str, session: Mapping[str, Any], *ancestors: int) -> str:
        """Report this agent and its session ({} when warm), because Redis has lost them.

        Returns its state; '' when its session is over or another agent's; `unset` when it is to try again.
        """
        return str(await self._ask("register", pid, node, dict(session), *ancestors))

    async def failed(self, cause: Reason) -> None:
        """Report that this agent cannot continue its session: another one takes over."""
        await self._ask("failed", json.loads(cause.record()))

    async def stopped(self, reason: Reason) -> None:
        """Report that this agent's process must stop: another node's agent continues the call, or the call ends."""
        await self._ask("stopped", json.loads(reason.record()))

    async def ended(self, session_id: str, status: str, reason: Reason) -> None:
        """Report that this agent's session is over (`ended` or `error`) and why. Idempotent."""
        await self._ask("ended", session_id, status, json.loads(reason.record()))

    async def leave(self, reason: Reason) -> None:
        """Report that this agent, still warm, leaves: no session may get it."""
        await self._ask("leave", json.loads(reason.record()))

    # What it is told

    async def next_message(self) -> dict[str, Any] | None:
        """Wait for the next message in the inbox, for at most `WAIT_SECONDS`; None when there was none.

        One that is no JSON object comes as an empty one: it must not end the reading.
        """
        self._keep()
        if self._inbox.empty() and self._inbox_trouble is not None:
            raise StoreUnavailable(self._inbox_trouble)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                text = await self._inbox.get()
        except TimeoutError:
            return None
        try:
            message = json.loads(text)
        except ValueError:
            return {}
        return message if isinstance(message, dict) else {}

    async def close(self) -> None:
        """Close the connection."""
        if self._keeper:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    # The connection

    async def _ask(self, op: str, *arguments: Any) -> Any:
        return await self._answer(self._new(op, *arguments))

    def _new(self, op: str, *arguments: Any) -> _Request:
        number = next(self._numbers)
        return _Request(number, _line({"id": number, "op": op, "args": arguments}))

    async def _answer(self, request: _Request) -> Any:
        self._keep()
        if self._refused:
            raise self._refused
        self._pending[request.number] = request
        if self._writer:
            request.send(self._writer)
        try:
            async with asyncio.timeout(PATIENCE):
                return await request.answer
        except TimeoutError:
            raise StoreUnavailable(f"the relay does not answer on {self._socket}") from None
        finally:
            del self._pending[request.number]

    def _keep(self) -> None:
        """Begin to keep the connection, in the event loop of whoever uses it first."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_connected())

    async def _keep_connected(self) -> None:
        pause = FIRST_PAUSE
        while not self._refused:
            try:
                reader, writer = await asyncio.open_unix_connection(self._socket, limit=MAX_LINE)
                try:
                    await self._greet(reader, writer)
                    pause = FIRST_PAUSE
                    while line := await reader.readline():
                        self._take(json.loads(line))
                finally:
                    self._writer = None
                    writer.close()
                log.warning("the connection to the relay is lost: it is made again")
            except (OSError, ValueError) as failure:
                log.debug("no connection to the relay: %r", failure)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_line({"id": 0, "op": "hello", "args": [self.agent_id]}))
        answer = json.loads(await reader.readline() or b"{}")
        if "error" in answer:
            self._refused = NotTheAgent(answer["detail"])
            for request in self._pending.values():
                request.settle(answer)
        elif "ok" in answer:
            self._writer = writer
            # guard: relay-resend
            for request in self._pending.values():
                request.send(writer)

    def _take(self, message: dict[str, Any]) -> None:
        if "mail" in message:
            text = message["text"]
            # A message comes again when its confirmation was lost.
            # guard: mail-once
            if text not in self._received:
                self._received.append(text)
                self._inbox.put_nowait(text)
            if self._writer:
                self._writer.write(_line({"got": message["mail"]}))
        elif "inbox" in message:
            self._inbox_trouble = message["inbox"]
        elif request := self._pending.get(message["id"]):
            request.settle(message)


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
