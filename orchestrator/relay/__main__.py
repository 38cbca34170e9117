"""The relay's process: `python -m orchestrator.relay`."""

import asyncio
import contextlib
import signal
import sys

from orchestrator.config.load import load
from orchestrator.config.node import NodeSettings
from orchestrator.errors import CANNOT_RUN, Preflight
from orchestrator.logs import configure_logging
from orchestrator.relay.server import Relay


async def _run(settings: NodeSettings) -> None:
    task = asyncio.create_task(Relay(settings).run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


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
