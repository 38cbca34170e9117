"""One agent's connection: its requests go to Redis, its inbox comes to it.

A message is removed from the inbox after the agent has confirmed it: a relay that is killed before that loses nothing,
and the next one delivers it again.
Failure cases: Redis does not answer → each request is answered with the error, and the agent asks again; the inbox
cannot be read though Redis answers → the agent is told; the agent reads nothing → its requests wait, and it is sent
nothing but its messages, each once.
"""

import asyncio
import itertools
import json
import logging
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.relay.protocol import MAX_LINE
from orchestrator.relay.requests import carry_out
from orchestrator.store.relay_store import RelayStore

log = logging.getLogger("orchestrator.relay")

#: Requests of one agent that are carried out at the same time.
AT_ONCE = 4


class Connection:
    """The connection of one agent, after its hello."""

    def __init__(
        self, store: RelayStore, agent_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._store, self._agent_id = store, agent_id
        self._reports = store.reports(agent_id)
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count(1)
        #: The texts that were sent and not confirmed, by number; and those confirmed that are still in the inbox.
        self._sent: dict[int, str] = {}
        self._confirmed: set[str] = set()
        self._reading = asyncio.Lock()
        self._free = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._inbox_trouble: str | None = None

    async def serve(self) -> None:
        """Answer the agent's lines until its connection is gone."""
        # guard: inbox-at-hello
        self.deliver()
        try:
            while line := await self._reader.readline():
                await self._free.acquire()
                self._start(self._take(line))
        except (OSError, ValueError):  # it is gone, or has sent a line that is too long
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection. Reports that are under way go on: their answers are lost."""
        self._writer.close()

    def deliver(self) -> None:
        """Read the inbox, and send the agent what it has not been sent."""
        task = asyncio.create_task(self._deliver())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)

        def done(_: object) -> None:
            self._tasks.discard(task)
            self._free.release()

        task.add_done_callback(done)

    async def _take(self, line: bytes) -> None:
        number = None
        try:
            message = json.loads(line)
            if "got" in message:
                await self._confirm(message["got"])
                return
            number = message["id"]
            answer = {"ok": await carry_out(self._reports, message["op"], message["args"])}
            if message["op"] == "beat":
                # guard: inbox-at-beat
                self.deliver()
        except OrchestratorError as failure:
            answer = refusal(failure)
        except (ValueError, KeyError, TypeError, AttributeError) as failure:
            answer = refusal(OrchestratorError(f"malformed request: {failure!r}"))
        self._send({"id": number, **answer})

    async def _confirm(self, number: int) -> None:
        if (text := self._sent.pop(number, None)) is None:
            return
        self._confirmed.add(text)
        try:
            # guard: mail-confirmed
            await self._store.remove(self._agent_id, text)
            self._confirmed.discard(text)
        except OrchestratorError as failure:
            log.warning("a message that %s has stays in its inbox for now: %s", self._agent_id, failure.detail)

    async def _deliver(self) -> None:
        async with self._reading:
            try:
                texts = await self._store.inbox(self._agent_id)
                for text in self._confirmed.intersection(texts):
                    await self._store.remove(self._agent_id, text)
                    self._confirmed.discard(text)
            except OrchestratorError as failure:
                self._tell_trouble(failure.detail)
                return
            self._tell_trouble(None)
            for text in texts:
                if text not in self._sent.values() and text not in self._confirmed:
                    number = next(self._numbers)
                    self._sent[number] = text
                    self._send({"mail": number, "text": text})

    def _tell_trouble(self, detail: str | None) -> None:
        if detail != self._inbox_trouble:
            self._inbox_trouble = detail
            self._send({"inbox": detail})

    def _send(self, message: dict[str, Any]) -> None:
        send(self._writer, message)


def send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    """Send one line, if the connection is there. One that takes nothing is closed: it must not fill the memory."""
    if writer.is_closing():
        return
    if writer.transport.get_write_buffer_size() > MAX_LINE:
        writer.transport.abort()
        return
    writer.write(json.dumps(message).encode() + b"\n")


def refusal(failure: OrchestratorError) -> dict[str, Any]:
    """Return an error as an answer has it."""
    return {"error": failure.code, "detail": failure.detail}
