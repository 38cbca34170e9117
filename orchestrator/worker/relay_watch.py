"""Kills a relay of this node that hangs, before its agents count as silent: supervisord starts the next one."""

import asyncio
import json
import logging
import os
import signal
import socket
import struct
import sys
from pathlib import Path

log = logging.getLogger("orchestrator.worker.relay_watch")

#: Seconds between two checks, and for an answer. Together with a start of the relay they are less than the default of
#: HEARTBEAT_TIMEOUT_SECONDS.
CHECK_SECONDS = 1.0
ANSWER_SECONDS = 3.0
#: struct ucred: pid, uid, gid.
_PEER = struct.Struct("3i")


async def check(path: Path) -> None:
    """Ask the relay for a sign of life; a relay that accepts the connection and gives none is killed. Linux only."""
    if sys.platform != "linux":
        return
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return  # it starts, or will be started
    try:
        writer.write(json.dumps({"id": 0, "op": "ping"}).encode() + b"\n")
        async with asyncio.timeout(ANSWER_SECONDS):
            await reader.readline()
    except TimeoutError:
        credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        log.critical("the relay does not answer: it is killed and will be restarted")
        # guard: relay-hangs
        os.kill(_PEER.unpack(credentials)[0], signal.SIGKILL)
    except OSError:
        pass  # it has ended meanwhile
    finally:
        writer.close()
