"""The relay's process: `python -m orchestrator.relay`."""

import asyncio
import contextlib
import os
import signal
import sys

from orchestrator.config.load import load
from orchestrator.config.node import NodeSettings
from orchestrator.errors import CANNOT_RUN, Preflight
from orchestrator.logs import configure_logging
from orchestrator.relay.server import Relay

#: Seconds for which the relay serves agents that are being stopped, after the death of the node's main process.
LAST_SECONDS = 8.0


async def _run(settings: NodeSettings) -> None:
    relay, supervisor = Relay(settings), os.getppid()
    serving = asyncio.create_task(relay.run())
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    # supervisord stops the agents first. Killed, it stops nothing: the kernel ends all programs at the same time, and
    # the agents have yet to say that others are to continue their calls.
    # guard: relay-stays
    if not serving.done() and os.getppid() != supervisor:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await relay.idle()
    stopping.cancel()
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def main() -> None:
    """Carry the messages of this node's agents until SIGTERM."""
    configure_logging()
    try:
        settings = load(NodeSettings)
        configure_logging(settings.log_format)
        asyncio.run(_run(settings))
    except Preflight as failure:
        sys.stderr.write(f"relay: {failure}\n")
        sys.exit(CANNOT_RUN)


if __name__ == "__main__":
    main()
