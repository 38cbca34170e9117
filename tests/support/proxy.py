"""A TCP proxy that simulates network faults on demand, between real clients and a real server.

Its limit: it terminates each connection, so the kernel still acknowledges data that a black hole drops, and answers
keep-alive probes. Application timeouts detect the fault; timeouts inside TCP do not.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Literal

_CHUNK = 65_536
#: Chunks in flight in one direction before the sender is slowed down.
_UNDER_WAY = 64
#: Maximum wait for the proxy's own thread, in seconds.
_PATIENCE = 10


@dataclass(frozen=True, slots=True)
class _Mode:
    kind: Literal["forward", "black_hole", "reset"] = "forward"
    seconds: float = 0.0
    jitter: float = 0.0
    piece: int = 0
    pause: float = 0.0
    keep: bool = False


class _Connection:
    """The two sockets of one client's connection, and the task that forwards between them."""

    def __init__(self, client: socket.socket) -> None:
        self.sockets = [client]
        self.task: asyncio.Task[None] | None = None

    def close(self, *, reset: bool) -> None:
        for side in self.sockets:
            if reset:
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            side.close()


class FaultProxy:
    """Listens on `port` and forwards to a server; each method switches the mode and returns when the mode is in effect.

    They may be called from any thread. There is one mode at a time. A fault is permanent for the connections it hit:
    the data that a black hole dropped is lost, and the connection is reset when the black hole ends, or stays dead.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (socket.gethostbyname(host), port)
        self._mode = _Mode()
        #: Switches of several threads run one at a time.
        self._turn = threading.Lock()
        #: Open connections; those of a kept black hole that has ended are in `_dead`, until the proxy closes.
        self._open: set[_Connection] = set()
        self._dead: set[_Connection] = set()
        self.port = 0

    # Modes

    def pass_through(self) -> None:
        """Forward everything immediately; the initial mode."""
        self._do(self._switch(_Mode()))

    def black_hole(self, *, keep: bool = False) -> None:
        """Forward nothing, neither data nor ends of connections. New connections are accepted and get no answer.

        When it ends, its connections are reset; with `keep` they stay open and silent on both sides for good.
        """
        self._do(self._switch(_Mode("black_hole", keep=keep)))

    def reset(self) -> None:
        """Reset all connections but the dead of a kept black hole, and each new one as it connects or just after."""
        self._do(self._switch(_Mode("reset")))

    def latency(self, seconds: float, jitter: float = 0.0) -> None:
        """Delay everything by `seconds` ± `jitter` each way: a round trip takes twice that. The order is kept."""
        self._do(self._switch(_Mode(seconds=seconds, jitter=jitter)))

    def slice(self, size: int, pause: float = 0.001) -> None:
        """Forward at most `size` bytes at once, with a pause after each piece so that the reader sees pieces."""
        self._do(self._switch(_Mode(piece=size, pause=pause)))

    @property
    def connections(self) -> int:
        """How many connections are open; the dead ones of a black hole that has ended do not count."""
        return len(self._open)

    # Life

    def __enter__(self) -> "FaultProxy":
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.SelectorEventLoop()
        self._loop.add_reader(self._listener, self._accept)
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._do(self._end())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_PATIENCE)
            assert not self._thread.is_alive(), "the proxy's thread hangs"
            self._loop.close()

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        with self._turn:
            asyncio.run_coroutine_threadsafe(what, self._loop).result(_PATIENCE)

    # The methods below run in its own thread

    async def _end(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self._mode = _Mode("reset")
        await self._halt()
        self._reset(self._open)
        self._reset(self._dead)

    async def _switch(self, mode: _Mode) -> None:
        self._accept()  # Connections accepted before the switch belong to the old mode.
        left, self._mode = self._mode, mode
        if left.kind == "black_hole" != mode.kind:
            if left.keep:
                self._dead |= self._open
                self._open.clear()
            else:
                self._reset(self._open)
        if mode.kind != "forward":
            await self._halt()
        if mode.kind == "reset":
            self._reset(self._open)

    async def _halt(self) -> None:
        tasks = [connection.task for connection in self._open if connection.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _reset(self, connections: set[_Connection]) -> None:
        while connections:
            connections.pop().close(reset=True)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            client.setblocking(False)
            connection = _Connection(client)
            if self._mode.kind == "reset":
                connection.close(reset=True)
                continue
            self._open.add(connection)
            if self._mode.kind == "forward":
                connection.task = self._loop.create_task(self._serve(connection))

    async def _serve(self, connection: _Connection) -> None:
        """Forward until both sides have ended, or one fails. If cancelled, leave the sockets as they are."""
        server = socket.socket()
        server.setblocking(False)
        connection.sockets.append(server)
        failed = False
        try:
            await self._loop.sock_connect(server, self._server)
            async with asyncio.TaskGroup() as group:
                for source, sink in (connection.sockets, reversed(connection.sockets)):
                    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)
                    group.create_task(self._read(source, queue))
                    group.create_task(self._write(sink, queue))
        except* OSError:
            failed = True
        self._open.discard(connection)
        connection.close(reset=failed)

    async def _read(self, source: socket.socket, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"more"
        while data:
            data = await self._loop.sock_recv(source, _CHUNK)
            delay = self._mode.seconds + random.uniform(-1, 1) * self._mode.jitter
            await queue.put((time.monotonic() + delay, data))

    async def _write(self, sink: socket.socket, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        while True:
            due, data = await queue.get()
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            if not data:
                break
            rest = memoryview(data)
            while rest:
                size = self._mode.piece or len(rest)
                await self._loop.sock_sendall(sink, rest[:size])
                rest = rest[size:]
                if self._mode.piece:
                    await asyncio.sleep(self._mode.pause)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
