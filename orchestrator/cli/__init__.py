"""The `orchestrator` command."""

import os
import signal
import sys

from orchestrator.machine.ending import end_after
from orchestrator.machine.sealed import seal


def main() -> None:
    """Run the command line."""
    seal()  # before anything else: this process reads the admin token, and `up` every secret
    if os.getpid() == 1:
        # In a container. The kernel ignores a signal for which PID 1 has no handler, so that a node could not be
        # stopped while it starts.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # The import takes half a second, in which the lines above must already hold.
    from orchestrator.cli.main import main as run  # noqa: PLC0415

    # guard: call-ends-quietly
    end_after(run)


__all__ = ["main"]
