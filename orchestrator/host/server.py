"""The agent host's Unix socket: answers lines of JSON, from the host's selector loop."""

import contextlib
import json
import os
import selectors
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError, Preflight
from orchestrator.host.protocol import MAX_LINE

#: Returns the answer to one request. Raises OrchestratorError with the cause for the client; ValueError, KeyError
#: or TypeError for a malformed request.
Answer = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(slots=True, eq=False)
class Client:
    """One connection."""

    socket: socket.socket
    incoming: bytearray = field(default_factory=bytearray)
    outgoing: bytearray = field(default_factory=bytearray)


class LineServer:
    """Serves any number of clients. Data of the selector's keys are callbacks without arguments."""

    def __init__(self, path: Path, selector: selectors.BaseSelector, answer: Answer) -> None:
        self._path, self._selector, self._answer = path, selector, answer
        self._clients: set[Client] = set()
        self._listener: socket.socket

    def open(self) -> None:
        """Listen, for this user only. Raises `Preflight` when the path cannot be used."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(self._path.lstat().st_mode):
                self._path.unlink()
        self._listener = socket.socket(socket.AF_UNIX)
        # Bound under a umask, so that another user can never connect.
        mask = os.umask(0o177)
        try:
            self._listener.bind(str(self._path))
        except OSError as failure:
            raise Preflight(f"agent host cannot listen on {self._path}: {failure}. Set a shorter RUN_DIR.") from None
        finally:
            os.umask(mask)
        self._listener.listen(16)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        """Send the pending messages, and close everything."""
        for client in list(self._clients):
            self._flush(client)
            self._drop(client)
        self._selector.unregister(self._listener)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def disown(self) -> None:
        """In a forked child: close its copies. The sockets and their path stay the parent's."""
        self._listener.close()
        for client in self._clients:
            client.socket.close()

    def broadcast(self, message: dict[str, Any]) -> None:
        """Send a message to every client."""
        for client in list(self._clients):
            self._send(client, message)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        client = Client(connection)
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._receive(client))

    def _drop(self, client: Client) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self._selector.unregister(client.socket)
            client.socket.close()

    def _receive(self, client: Client) -> None:
        self._flush(client)
        try:
            data = client.socket.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.incoming += data
        if not data or len(client.incoming) > MAX_LINE:
            self._drop(client)
            return
        *lines, rest = client.incoming.split(b"\n")
        client.incoming = bytearray(rest)
        for line in lines:
            self._send(client, self._reply(bytes(line)))

    def _reply(self, line: bytes) -> dict[str, Any]:
        request_id = None
        try:
            request = json.loads(line)
            request_id = request["id"]
            return {"id": request_id, "ok": self._answer(request)}
        except OrchestratorError as failure:
            return {"id": request_id, "error": failure.detail}
        except (ValueError, KeyError, TypeError) as failure:
            return {"id": request_id, "error": f"malformed request: {failure!r}"}

    def _send(self, client: Client, message: dict[str, Any]) -> None:
        client.outgoing += json.dumps(message).encode() + b"\n"
        self._flush(client)

    def _flush(self, client: Client) -> None:
        if client not in self._clients:
            return
        try:
            while client.outgoing:
                del client.outgoing[: client.socket.send(client.outgoing)]
        except BlockingIOError:
            # A client that reads nothing must not fill the host's memory.
            if len(client.outgoing) > MAX_LINE:
                self._drop(client)
                return
        except OSError:
            self._drop(client)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.outgoing else 0)
        self._selector.modify(client.socket, events, lambda: self._receive(client))
