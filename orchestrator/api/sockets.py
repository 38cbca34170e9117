"""The api's sockets, which listen before the app is loaded, so that no other process can take a port in between."""

import errno
import os
import socket

from orchestrator.errors import Preflight
from orchestrator.settings import Settings

#: Connections that may wait to be accepted, while the app loads or is busy.
BACKLOG = 2048
_Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
#: Errors for addresses of a name that this machine lacks, IPv6 most often.
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def listening(settings: Settings) -> list[socket.socket]:
    """Open PORT and FRONTEND_PORT on every address of HOST.

    Raises:
        Preflight: one of them cannot be opened.
    """
    ports = {"PORT": settings.port}
    if settings.frontend_port not in {0, settings.port}:
        ports["FRONTEND_PORT"] = settings.frontend_port
    opened: list[socket.socket] = []
    try:
        for setting, port in ports.items():
            opened += _open(settings.host, port, setting)
    except Preflight:
        for sock in opened:
            sock.close()
        raise
    return opened


def addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, _Address]]:
    """Return the addresses of a host, once each. Raises `Preflight` when it has none."""
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as failure:
        raise Preflight(f"HOST={host} is no address of this machine: {failure}. Correct HOST.") from None
    families = {socket.AF_INET, socket.AF_INET6}
    return list(dict.fromkeys((family, address) for family, _, _, _, address in rows if family in families))


def _open(host: str, port: int, setting: str) -> list[socket.socket]:
    opened: list[socket.socket] = []
    missing: OSError | None = None
    wanted = addresses(host, port)
    for family, address in wanted:
        try:
            opened.append(_listen(family, address, alone=len(wanted) == 1))
        except OSError as failure:
            if failure.errno in _NOT_HERE:
                missing = failure
                continue
            for sock in opened:
                sock.close()
            why = failure.strerror or str(failure)
            raise Preflight(
                f"{setting}={port} cannot be opened on {address[0]}: {why}. Stop what holds it (orchestrator doctor "
                f"names it), or set {setting} to a free port."
            ) from None
    if not opened:
        raise Preflight(
            f"HOST={host} is no address of this machine: {os.strerror(missing.errno or 0) if missing else ''}"
        )
    return opened


def _listen(family: socket.AddressFamily, address: _Address, *, alone: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # A lone `::` listens on IPv4 too; beside an IPv4 address, which has its own socket, it must not.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if alone and address[0] == "::" else 1)
        sock.bind(address)
        # guard: listen-before-load
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
