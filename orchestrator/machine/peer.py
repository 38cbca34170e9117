"""Which process is at the other end of a Unix socket: the kernel says it."""

import socket
import struct
import sys

#: struct ucred: pid, uid, gid.
_PEER = struct.Struct("3i")


def peer_pid(connection: socket.socket) -> int | None:
    """Return the pid of the process that has connected, or that listens. Linux only: elsewhere None."""
    if sys.platform != "linux":
        return None
    return int(_PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0])
