"""The program that supervisord stops first. Until then it sleeps, with the standard library alone in memory.

A node's memory is for its calls: what a drain needs is loaded when it begins.
"""

import importlib
import signal

SIGNALS = {signal.SIGTERM, signal.SIGINT}


def main() -> None:
    """Wait for the signal to stop, then drain the node. A second signal ends the drain at once."""
    # Blocked, so that a signal that comes before sigwait() is kept for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    signal.sigwait(SIGNALS)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    importlib.import_module("orchestrator.node.drain").main()


if __name__ == "__main__":
    main()
