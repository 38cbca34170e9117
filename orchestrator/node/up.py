"""`orchestrator up`: checks that the node can start, prepares its environment, and becomes supervisord."""

import ctypes
import os
import signal
import subprocess
import sys
from typing import NoReturn

from orchestrator.node import preflight, programs
from orchestrator.node.environment import in_dot_env, node_environment
from orchestrator.settings import Settings

#: Signals that stop the node.
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
_PR_SET_CHILD_SUBREAPER = 36


def up() -> NoReturn:
    """Start the node in the foreground. Raises `Preflight` with one line if it cannot start."""
    settings = Settings.load()
    preflight.check(settings)
    environment = in_dot_env() | os.environ | node_environment(settings, settings.run_dir.resolve())
    _adopt_orphans()
    python = [sys.executable, "-m", "orchestrator.machine.sealed"]
    # In a process group of its own, as the other programs: Ctrl-C reaches only supervisord, which stops the rest.
    own = programs.environment_of("announce", environment, settings)
    subprocess.Popen([*python, "orchestrator.node.announce"], env=own, process_group=0)
    # Blocked until supervisord handles them. Otherwise they would end this process, or be ignored if it is PID 1.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS | {signal.SIGHUP})
    own = programs.hand_over(environment, settings)
    os.execve(sys.executable, [*python, preflight.SUPERVISE, "-c", str(preflight.CONFIGURATION)], own)


def _adopt_orphans() -> None:
    """Become the parent of orphaned descendants, so that supervisord reaps the agents of a killed host."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # survives execve, see prctl(2)
