"""Adds TLS to a server that has none, with certificates made for the test."""

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path


def certificates(folder: Path, host: str = "localhost") -> tuple[Path, Path, Path]:
    """Create a CA and a certificate for a host; returns the files of the CA, the certificate and the key."""
    authority, key, signed, request = (folder / name for name in ("ca.pem", "key.pem", "cert.pem", "cert.csr"))
    extension = folder / "san"
    extension.write_text(f"subjectAltName=DNS:{host}\n")
    made = ["-newkey", "rsa:2048", "-nodes", "-days", "2"]
    own = folder / "ca.key"
    for command in (
        ["req", "-x509", *made, "-keyout", own, "-out", authority, "-subj", "/CN=test authority"],
        ["req", *made[:3], "-keyout", key, "-out", request, "-subj", f"/CN={host}"],
        ["x509", "-req", "-in", request, "-CA", authority, "-CAkey", own, "-out", signed, "-days", "2",
         "-CAcreateserial", "-extfile", extension],
    ):  # fmt: skip
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return authority, signed, key


@contextlib.contextmanager
def tls_before(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """Listen with TLS in front of a port of this machine; yields the port. Every connection is forwarded."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.new_event_loop()
    listening: list[asyncio.Server] = []

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        except OSError:
            pass
        except asyncio.CancelledError:  # the test is over
            target.transport.abort()
        target.close()
        with contextlib.suppress(OSError):
            await target.wait_closed()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, ahead), copy(behind, writer))

    async def listen() -> None:
        listening.append(await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context))

    async def end() -> None:
        listening[0].close()
        for task in (tasks := asyncio.all_tasks() - {asyncio.current_task()}):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listening[0].wait_closed()

    loop.run_until_complete(listen())
    loop.set_exception_handler(lambda *_: None)  # tests also provoke failing handshakes
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield listening[0].sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(end())
        loop.close()
