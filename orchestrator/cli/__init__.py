"""The `orchestrator` command, and the programs of a node that are no part of its api."""

import os
import signal
import sys

from orchestrator.machine.sealed import seal


def main() -> None:
    """Run the command line."""
    seal()  # it knows the admin token, and `up` every secret
    if os.getpid() == 1:
        # In a container. The kernel drops what PID 1 has no handler for: it could not be stopped while it starts.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Not at import: a node's programs are in this package too, and would hold what every command needs (40 MB each).
    from orchestrator.cli.main import main as run  # noqa: PLC0415

    run()


__all__ = ["main"]
