"""Runs a module so that no other process of its user can read its memory or its environment.

    python -m orchestrator.machine.sealed MODULE ARGUMENT...

The kernel then treats it as it treats setuid programs: /proc/PID/environ, /proc/PID/mem, ptrace and core dumps are
root's. Lost by execve, kept by fork. Linux only; elsewhere the module is merely run. In the moment between
execve and this (37 ms were measured, on a busy machine) such a process is as open as any other.
"""

import ctypes
import runpy
import sys

_PR_SET_DUMPABLE = 4


def seal() -> None:
    """Close this process to others of its user, where the system can."""
    if sys.platform == "linux":
        # guard: sealed
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def main() -> None:
    """Run the module that the command line names, sealed, as `python -m` would."""
    seal()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
