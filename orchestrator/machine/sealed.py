"""Runs a module so that other processes of its user cannot read its memory or its environment.

    python -m orchestrator.machine.sealed MODULE ARGUMENT...

The kernel then treats it like a setuid program: only root may use /proc/PID/environ, /proc/PID/mem, ptrace and core
dumps. fork keeps the seal, execve removes it. Linux only; elsewhere the module just runs. Between execve and this call
(37 ms were measured on a busy machine) such a process is not protected.
"""

import ctypes
import runpy
import sys

_PR_SET_DUMPABLE = 4


def seal() -> None:
    """Protect this process from others of its user, if the system can."""
    if sys.platform == "linux":
        # guard: sealed
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def main() -> None:
    """Run the module that the command line names, as `python -m` would, but sealed."""
    seal()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
