"""Finds the process that holds a port."""

import socket

import psutil


def holder(host: str, port: int, *, udp: bool = False) -> str | None:
    """Return a description of the process that holds a port; None if it is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as probe:
        if not udp:
            # A server may use a port that is in TIME_WAIT.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            return "the system (ports below 1024 need root)"
        except OSError as failure:
            return _process(port) or f"another program ({failure.strerror})"
    return None


def _process(port: int) -> str | None:
    try:
        for connection in psutil.net_connections("inet"):
            if connection.laddr and connection.laddr.port == port and connection.pid and not connection.raddr:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return None  # another user's process
    return None
