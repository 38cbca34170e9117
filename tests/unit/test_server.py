"""The agent host's socket: bounded memory for each client, and no leftovers."""

import contextlib
import json
import selectors
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.host.protocol import MAX_LINE
from orchestrator.host.server import LineServer
from tests.support.processes import poll


class Loop:
    """A server and the selector loop that drives it, one turn at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.selector = selectors.DefaultSelector()
        self.server = LineServer(path, self.selector, lambda request: {"echo": request["op"]})
        self.server.open()

    def turn(self) -> None:
        for key, _ in self.selector.select(0):
            key.data()

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.path))
        client.settimeout(5)
        self.turn()
        return client

    @property
    def connections(self) -> int:
        return len(self.selector.get_map()) - 1


@pytest.fixture
def loop(short_folder: Path) -> Iterator[Loop]:
    made = Loop(short_folder / "line.sock")
    yield made
    made.server.close()
    made.selector.close()


def test_valid_and_invalid_lines_are_answered(loop: Loop) -> None:
    with loop.connect() as client:
        client.sendall(b'{"id": 7, "op": "hello"}\n{"id": 8}\nnonsense\n')
        loop.turn()
        answers = [json.loads(line) for line in client.recv(4096).splitlines()]
    assert answers[0] == {"id": 7, "ok": {"echo": "hello"}}
    assert answers[1]["id"] == 8
    assert all("malformed" in answer["error"] for answer in answers[1:])


def test_a_line_without_an_end_closes_the_connection(loop: Loop) -> None:
    with loop.connect() as client:
        client.setblocking(False)
        sent = 0

        def fill() -> bool:
            nonlocal sent
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                sent += client.send(b"x" * 65_536)
            loop.turn()
            return loop.connections == 0

        poll(fill, "it is closed")
        assert sent < 3 * MAX_LINE


def test_a_client_that_does_not_read_is_dropped_and_others_get_events(loop: Loop) -> None:
    with loop.connect() as deaf, loop.connect() as listener:
        message = {"event": "died", "filling": "x" * 60_000}
        for _ in range(2 + 2 * MAX_LINE // 60_000):
            loop.server.broadcast(message)
            while b"\n" not in listener.recv(1 << 20):
                loop.turn()
        assert loop.connections == 1
        assert deaf.fileno() > 0


def test_closing_the_server_releases_everything(short_folder: Path) -> None:
    made = Loop(short_folder / "gone.sock")
    with made.connect() as client:
        made.server.close()
        assert client.recv(1) == b""
    assert not made.path.exists()
    assert not made.selector.get_map()
    made.selector.close()
