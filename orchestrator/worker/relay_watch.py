"""Kills a relay of this node that hangs, before its agents count as silent: supervisord starts the next one."""

import asyncio
import json
import logging
import os
import signal
from pathlib import Path

from orchestrator.machine.peer import peer_pid

log = logging.getLogger("orchestrator.worker.relay_watch")

#: Seconds between two checks, and for an answer. Together with a start of the relay they are less than the default of
#: HEARTBEAT_TIMEOUT_SECONDS.
CHECK_SECONDS = 1.0
ANSWER_SECONDS = 3.0


async def check(path: Path) -> None:
    """Ask the relay for a sign of life; a relay that accepts the connection and gives none is killed. Linux only."""
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return  # it starts, or will be started
    try:
        writer.write(json.dumps({"id": 0, "op": "ping"}).encode() + b"\n")
        async with asyncio.timeout(ANSWER_SECONDS):
            await reader.readline()
    except TimeoutError:
        if pid := peer_pid(writer.get_extra_info("socket")):
            log.critical("the relay does not answer: it is killed and will be restarted")
            # guard: relay-hangs
            os.kill(pid, signal.SIGKILL)
    except OSError:
        pass  # it has ended meanwhile
    finally:
        writer.close()
