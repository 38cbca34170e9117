"""An agent's own process: its ancestors, its log, and its end."""

import faulthandler
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import psutil

from orchestrator.logs import PlainFormatter, never_fail_to_print
from orchestrator.machine import ending

log = logging.getLogger("agent.runtime")


def lineage() -> list[int]:
    """Return this process's pid and its ancestors': the agent host may have started a wrapper of it."""
    return [os.getpid(), *(parent.pid for parent in psutil.Process().parents())]


def log_to_stderr() -> None:
    """Log to standard error in the agents' format. Replaces handlers of standard streams, and keeps all others."""
    never_fail_to_print()
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if getattr(handler, "stream", None) in {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}:
            root.removeHandler(handler)
    ours = logging.StreamHandler(sys.stderr)
    ours.setFormatter(PlainFormatter())
    root.addHandler(ours)
    root.setLevel(logging.INFO)
    # At INFO LiveKit logs every connection; problems are at WARNING.
    logging.getLogger("livekit").setLevel(logging.WARNING)
    faulthandler.enable()


def end_after(work: Callable[[], None]) -> NoReturn:
    """Run the work of this process and exit without exit handlers."""
    ending.end_after(work, lambda: log.exception("agent crashed"))
