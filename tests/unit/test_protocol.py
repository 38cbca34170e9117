"""The limits of a connection to the API, and of their number, with uvicorn and our protocol."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from orchestrator.api import protocol
from orchestrator.api.addresses import counted
from orchestrator.api.connections import Connections
from orchestrator.api.protocol import bounded_by

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"


async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[dict[str, Any]], Any]) -> None:
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def served(connections: Connections) -> AsyncIterator[int]:
    config = uvicorn.Config(
        app, port=0, log_config=None, lifespan="off", http=bounded_by(connections), ws="none", proxy_headers=False
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    serving = asyncio.create_task(server.main_loop())
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        async with asyncio.timeout(60):
            await serving
            await server.shutdown()


async def answered(port: int, *sent: bytes, end: bool = False) -> tuple[int, bytes]:
    """Send a request, and return the answer's status (0: closed without an answer) and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(60):
            try:
                for piece in sent:
                    writer.write(piece)
                    await writer.drain()
                if end:
                    writer.write_eof()
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                return int(head.split()[1]), await reader.readexactly(length)
            except (ConnectionError, asyncio.IncompleteReadError):
                return 0, b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ([GET + b"\r\n"], 200),
        ([GET, b"X-A: 1\r\n", b"\r\n"], 200),
        ([GET + b"X-A: " + b"a" * 65_536], 431),
        ([GET + b"X-A: ", *[b"a" * 4096] * 64], 431),
        ([GET, *[b"X-%d: 1\r\n" % n for n in range(200)]], 431),
        ([b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n"], 414),
        ([b"\x16\x03\x01\x02\x00\x01" + b"\x00" * 64], 400),
        ([b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n", *[b"a" * 65_536] * 16], 413),
        ([b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\na\r\n" * 4096] * 64], 413),
    ],
    ids=["plain", "in pieces", "one line", "one line without end", "lines", "url", "tls", "body", "chunks"],
)
async def test_an_oversized_request_is_refused_before_it_is_stored(sent: list[bytes], status: int) -> None:
    connections = Connections(100)
    async with served(connections) as port:
        found, body = await answered(port, *sent)
        assert found in {status, 0} if status == 413 else found == status
        if status != 200 and body:
            problem = json.loads(body)
            assert (problem["success"], problem["status"]) == (False, status)
        # The next request is served.
        assert (await answered(port, GET + b"\r\n"))[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [([b""], 0), ([GET], 408), ([b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"], 408)],
    ids=["nothing", "half a header", "half a body"],
)
async def test_a_request_that_never_ends_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, sent: list[bytes], status: int
) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.2)
    async with served(Connections(100)) as port:
        assert (await answered(port, *sent))[0] == status


async def test_idle_connections_are_closed_for_new_requests() -> None:
    connections = Connections(20)
    async with served(connections) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
        assert (await answered(port, GET + b"\r\n"))[0] == 200
        assert len(connections) <= 20
        for _, writer in silent:
            writer.transport.abort()


async def test_connections_per_address_are_limited_except_for_proxies() -> None:
    for exempt, most in ((None, 5), (lambda _: True, 30)):
        connections = Connections(100, per_address=5, exempt=exempt)
        async with served(connections) as port:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(30)]
            async with asyncio.timeout(60):
                while len(connections) < most:  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0.01)
            assert len(connections) == most
            assert (await answered(port, GET + b"\r\n"))[0] == 200
            for _, writer in held:
                writer.transport.abort()


def test_an_ipv6_network_counts_as_one_address() -> None:
    assert counted("2001:db8:1:2::1").narrow == counted("2001:db8:1:2:ffff::9").narrow
    assert counted("::ffff:192.0.2.1") == counted("192.0.2.1") == ("192.0.2.1", "192.0.2.1")
