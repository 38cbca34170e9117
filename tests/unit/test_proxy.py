"""The proxy of the fault tests: if its faults did not happen, those tests would prove nothing."""

import asyncio
import contextlib
import gc
import os
import random
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.processes import free_ports, poll
from tests.support.proxy import FaultProxy, _Mode

#: Seconds without data that count as silence: an echo takes a thousandth of that.
SILENCE = 0.2


class Echo(socketserver.ThreadingTCPServer):
    """Sends received data back; records its connections and the data."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = int(self.server_address[1])
        self.connected: set[socket.socket] = set()
        self.received = b""


class _Handler(socketserver.BaseRequestHandler):
    server: Echo

    def handle(self) -> None:
        self.server.connected.add(self.request)
        with contextlib.suppress(ConnectionError):
            while data := self.request.recv(65_536):
                self.server.received += data
                self.request.sendall(data)
        self.server.connected.discard(self.request)


@contextlib.contextmanager
def running_echo() -> Iterator[Echo]:
    with Echo() as server:
        # The argument is the interval at which it checks for its end.
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
            for side in list(server.connected):
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def echo() -> Iterator[Echo]:
    with running_echo() as server:
        yield server


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", echo.port) as made:
        yield made


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def read(client: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        data = client.recv(65_536)
        assert data, f"it ended after {len(found)} of {size} bytes"
        found += data
    return found


def ask(client: socket.socket, data: bytes = b"hello") -> bytes:
    client.sendall(data)
    return read(client, len(data))


def silent(client: socket.socket) -> bool:
    """Return whether nothing comes: no data, no end and no reset."""
    client.settimeout(SILENCE)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(10)
    return False


def was_reset(client: socket.socket) -> bool:
    """Return whether the connection is reset, rather than closed normally."""
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    return False


def turned_away(proxy: FaultProxy) -> bool:
    """Return whether a new connection is reset, while it connects or when it reads."""
    try:
        with connect(proxy) as client:
            return was_reset(client)
    except ConnectionResetError:
        return True


def test_proxy_passes_everything_through(proxy: FaultProxy) -> None:
    sent = random.randbytes(5_000_000)
    with connect(proxy) as client:
        assert ask(client) == b"hello"
        sender = threading.Thread(target=client.sendall, args=(sent,))
        sender.start()
        assert read(client, len(sent)) == sent
        sender.join(10)


def test_proxy_passes_the_end_of_each_direction_separately(echo: Echo, proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        assert read(client, 10) == b"last words"
        assert client.recv(1) == b""
    poll(lambda: not echo.connected and not proxy.connections, "both ends are closed")


@pytest.mark.parametrize("who", ["client", "server"])
def test_proxy_passes_resets_on(who: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        with FaultProxy("127.0.0.1", listener.getsockname()[1]) as proxy:
            client = connect(proxy)
            server, _ = listener.accept()
            first, other = (client, server) if who == "client" else (server, client)
            with other:
                other.settimeout(10)
                first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                first.close()
                assert was_reset(other)
            assert proxy.connections == 0


def test_an_unreachable_server_causes_a_reset() -> None:
    with FaultProxy("localhost", free_ports()) as proxy:
        assert turned_away(proxy)


def test_a_black_hole_is_silent_in_both_directions_and_for_new_clients(echo: Echo, proxy: FaultProxy) -> None:
    with connect(proxy) as old:
        ask(old)
        proxy.black_hole()
        old.sendall(b"lost")
        (server_side,) = echo.connected
        server_side.sendall(b"lost, too")
        with connect(proxy) as new:
            new.sendall(b"lost as well")
            assert silent(old)
            assert silent(new)
            poll(lambda: proxy.connections == 2, "both are held")
        assert echo.received == b"hello"
        assert echo.connected == {server_side}


def test_a_black_hole_hides_the_end_of_a_connection(echo: Echo, proxy: FaultProxy) -> None:
    with connect(proxy) as dies, connect(proxy) as stays:
        ask(dies)
        ask(stays)
        proxy.black_hole()
        dies.close()
        for server_side in list(echo.connected):
            server_side.shutdown(socket.SHUT_WR)
        assert silent(stays)
        assert len(echo.connected) == 2


def test_ending_a_black_hole_resets_its_connections(echo: Echo, proxy: FaultProxy) -> None:
    with connect(proxy) as old:
        ask(old)
        proxy.black_hole()
        with connect(proxy) as new:
            proxy.pass_through()
            assert was_reset(old)
            assert was_reset(new)
        poll(lambda: not echo.connected, "the server's connection is closed too")
    with connect(proxy) as client:
        assert ask(client) == b"hello"
    assert echo.received == b"hellohello"


def test_a_connection_made_before_a_switch_has_the_old_mode(proxy: FaultProxy) -> None:
    """Even if the proxy did not run between the two."""
    proxy.black_hole()

    async def connect_and_switch() -> socket.socket:
        client = connect(proxy)
        await proxy._switch(_Mode())
        return client

    with asyncio.run_coroutine_threadsafe(connect_and_switch(), proxy._loop).result(10) as client:
        assert was_reset(client)


@pytest.mark.parametrize("then", [FaultProxy.pass_through, FaultProxy.reset], ids=["pass_through", "reset"])
def test_connections_of_a_kept_black_hole_stay_dead(
    echo: Echo, proxy: FaultProxy, then: Callable[[FaultProxy], None]
) -> None:
    with connect(proxy) as old:
        ask(old)
        (server_side,) = echo.connected
        proxy.black_hole(keep=True)
        with connect(proxy) as swallowed:
            then(proxy)
            proxy.pass_through()
            with connect(proxy) as new:
                assert ask(new) == b"hello"
                assert proxy.connections == 1
            swallowed.sendall(b"lost")
            old.sendall(b"lost")
            assert silent(old)
            assert silent(swallowed)
    poll(lambda: echo.connected == {server_side}, "the server holds the half that is left", 5)
    assert echo.received == b"hellohello"


def test_reset_mode_resets_every_connection_until_it_ends(echo: Echo, proxy: FaultProxy) -> None:
    with connect(proxy) as old:
        ask(old)
        proxy.reset()
        assert was_reset(old)
        for _ in range(3):
            assert turned_away(proxy)
        poll(lambda: not echo.connected, "the server's connection is closed")
    proxy.pass_through()
    with connect(proxy) as client:
        assert ask(client) == b"hello"


def test_latency_applies_to_both_directions_and_old_connections(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        ask(client)
        proxy.latency(0.1)
        began = time.monotonic()
        ask(client)
        assert time.monotonic() - began >= 0.2
        proxy.latency(30)
        client.sendall(b"late")
        assert silent(client)


def test_latency_delays_and_does_not_slow_down(proxy: FaultProxy) -> None:
    """A thousand lines in flight take one delay, not a thousand; and jitter does not change the order."""
    proxy.latency(0.1, 0.05)
    lines = [b"%5d\n" % number for number in range(1000)]
    with connect(proxy) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        for line in lines:
            client.sendall(line)
        assert read(client, 6000) == b"".join(lines)
        assert time.monotonic() - began >= 0.1


def test_jitter_varies(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [-1.0, -1.0, -1.0, 1.0]
    monkeypatch.setattr(random, "uniform", lambda low, high: drawn.pop(0) if drawn else high)
    proxy.latency(30, 30)
    with connect(proxy) as client:
        # Three transfers without a delay, then one with the longest.
        ask(client)
        client.sendall(b"late")
        assert silent(client)


def test_delayed_data_stays_in_order(proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        proxy.latency(0.5)
        client.sendall(b"first ")
        assert silent(client)  # It is in flight now.
        proxy.latency(60)
        proxy.pass_through()
        client.sendall(b"second")
        assert read(client, 12) == b"first second"
        # Later data is not delayed: this client's timeout is shorter than the delay.
        ask(client)


def test_sliced_data_arrives_in_pieces_and_complete(echo: Echo, proxy: FaultProxy) -> None:
    sent = random.randbytes(300)
    with connect(proxy) as client:
        ask(client)
        proxy.slice(3)
        pieces: list[bytes] = []
        client.sendall(sent)
        while len(b"".join(pieces)) < len(sent):
            pieces.append(client.recv(65_536))
        assert b"".join(pieces) == sent
        # On a busy machine the reader may get several of the hundred pieces at once.
        assert len(pieces) > 10
        proxy.slice(1, pause=60)
        client.sendall(b"xyz")
        assert read(client, 1) == b"x"
        assert silent(client)
        assert echo.received.endswith(sent + b"x")


def test_a_fault_drops_delayed_data(echo: Echo, proxy: FaultProxy) -> None:
    with connect(proxy) as client:
        ask(client)
        proxy.latency(0.1)
        client.sendall(b"late")
        proxy.black_hole(keep=True)
        assert silent(client)
        proxy.pass_through()
        assert silent(client)
    assert echo.received == b"hello"


def test_threads_may_switch_modes_concurrently_with_traffic(proxy: FaultProxy) -> None:
    over = threading.Event()
    modes: list[Callable[[], None]] = [
        proxy.pass_through, proxy.reset, proxy.black_hole, lambda: proxy.black_hole(keep=True),
        lambda: proxy.latency(0.001, 0.001), lambda: proxy.slice(2),
    ]  # fmt: skip

    def talk() -> None:
        while not over.is_set():
            with contextlib.suppress(ConnectionError, TimeoutError), connect(proxy) as client:
                client.settimeout(0.05)
                for _ in range(20):
                    ask(client)

    def switch(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(30):
            dice.choice(modes)()

    talkers = [threading.Thread(target=talk) for _ in range(4)]
    switchers = [threading.Thread(target=switch, args=(seed,)) for seed in range(3)]
    for thread in talkers + switchers:
        thread.start()
    for thread in switchers:
        thread.join(30)
    proxy.pass_through()
    with connect(proxy) as client:
        assert ask(client) == b"hello"
    over.set()
    for thread in talkers:
        thread.join(10)
        assert not thread.is_alive()
    poll(lambda: proxy.connections == 0, "nothing stays open")


async def test_modes_may_be_switched_from_a_running_loop(proxy: FaultProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"hello")
    assert await asyncio.wait_for(reader.readexactly(5), 10) == b"hello"
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.readexactly(1), 10)
    writer.close()


def test_closing_the_proxy_releases_everything() -> None:
    """No thread, socket or file descriptor is left; and all clients are disconnected, including those held dead."""
    gc.collect()
    threads, descriptors = set(threading.enumerate()), sorted(os.listdir("/proc/self/fd"))
    with running_echo() as echo:
        with FaultProxy("127.0.0.1", echo.port) as proxy:
            dead = connect(proxy)
            ask(dead)
            proxy.black_hole(keep=True)
            proxy.latency(30)
            delayed = connect(proxy)
            delayed.sendall(b"late")
            poll(lambda: proxy.connections == 1, "it is connected")
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("proxy")]
        for client in (dead, delayed):
            with client:
                assert was_reset(client)
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
    assert set(threading.enumerate()) == threads
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
