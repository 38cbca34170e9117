"""Loads the agent into the agent host, which forks agents from it; a reload tries the load in another process first.

Failure cases: the module raises → `PreloadFailed`; it starts threads → `PreloadStartsThreads`; it kills the
interpreter, or hangs until SIGALRM does → the host counts such deaths across its starts, and after the second it does
not load the module.

Preload and gc.freeze before fork follow livekit-agents' forkserver (`ipc/_preload_freeze.py`).
"""

import faulthandler
import gc
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import OrchestratorError
from orchestrator.host.loaded import find_generators, sockets
from orchestrator.host.state_dir import AgentFolder
from orchestrator.machine.process import read_stat

log = logging.getLogger("orchestrator.host")

#: The module that runs an agent: it has `preload(module)` and `main(agent_id)`.
RUNTIME = "agent_runtime.runtime"
#: Seconds that a trial may take.
TRIAL_SECONDS = 60
#: Name of a trial's output among the agents' logs. No agent can have this name.
TRIAL = "preload-trial"
TRIAL_ARGUMENT = "--try-preload"
#: Exit code of a successful trial. Not 0, because a module could exit with 0 half-way.
_PASSED = 93
#: Deaths while loading after which the module is not loaded again.
_DEATHS = 2


class PreloadFailed(OrchestratorError):
    """The agent's module cannot be loaded."""


class PreloadStartsThreads(OrchestratorError):
    """The agent's module starts threads when it is loaded."""


def preload(module: str) -> Callable[[str], None]:
    """Import the agent, load its models and freeze them; returns the runtime's `main`.

    Raises:
        PreloadFailed: the module raised.
        PreloadStartsThreads: it started threads.
    """
    started, before = time.monotonic(), sockets()
    try:
        runtime = importlib.import_module(RUNTIME)
        runtime.preload(module)
    except KeyboardInterrupt:
        raise
    except BaseException as failure:  # also SystemExit: a module must not end the host
        detail = failure.detail if isinstance(failure, OrchestratorError) else f"{type(failure).__name__}: {failure}"
        raise PreloadFailed(detail) from failure
    gc.collect()
    find_generators()
    gc.freeze()
    if threading.active_count() != 1 or threads() != 1:
        raise PreloadStartsThreads(
            f"{module} starts {threads() - 1} thread(s) when it is imported or prewarmed, and a process with threads "
            "cannot fork safely: start them in entrypoint()"
        )
    if shared := len(sockets() - before):
        log.warning(
            "%s leaves %d socket(s) open when it is imported or prewarmed, and all agents share them: what one reads "
            "the others miss. Connect in entrypoint(), or set AGENT_START_METHOD=exec.",
            module,
            shared,
        )
    log.info("preloaded %s in %.1f s", module, time.monotonic() - started)
    main: Callable[[str], None] = runtime.main
    return main


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Die of SIGALRM when the body takes longer; the traceback of where it hangs goes to stderr first."""
    # By a signal and not by a thread: nothing here may start one.
    faulthandler.register(signal.SIGALRM, chain=True)
    # guard: preload-timeout
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.unregister(signal.SIGALRM)


def threads() -> int:
    """Return how many threads this process has, native ones too."""
    try:
        return len(os.listdir("/proc/self/task"))
    except FileNotFoundError:
        return threading.active_count()


class PreloadCrashes:
    """How often the host died while it loaded this module, under the same supervisor."""

    def __init__(self, folder: Path, module: str) -> None:
        self._path = folder / "preload-deaths"
        # A node that is started again may have a repaired module: only restarts under one parent count.
        parent = read_stat(os.getppid())
        self._counted_for = [module, os.getppid(), parent.start_ticks if parent else 0]

    @property
    def too_many(self) -> bool:
        """Whether it is better not to try again."""
        # guard: preload-deaths
        return self._count() >= _DEATHS

    def _count(self) -> int:
        try:
            counted_for, count = json.loads(self._path.read_text())
            return int(count) if counted_for == self._counted_for else 0
        except (OSError, ValueError, TypeError):
            return 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count this as a death unless the body comes to its end, well or not."""
        with suppress(OSError):  # on a full disk nothing is counted
            self._path.write_text(json.dumps([self._counted_for, self._count() + 1]))
        try:
            yield
        finally:
            self.forget()

    def forget(self) -> None:
        """Start the count again at 0."""
        self._path.unlink(missing_ok=True)


@dataclass(slots=True)
class Trial:
    """A preload in an interpreter of its own, a child of the host."""

    pid: int
    deadline: float  #: monotonic time of SIGKILL
    late: bool = False

    @classmethod
    def start(cls, folder: AgentFolder, environment: Mapping[str, str]) -> "Trial":
        """Start one. Raises `OSError`."""
        folder.forget(TRIAL)
        output = folder.open_log(TRIAL)
        try:
            popen = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:], TRIAL_ARGUMENT], env=environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(output)
        popen.returncode = 0  # the host reaps it by its pid
        return cls(popen.pid, time.monotonic() + TRIAL_SECONDS)

    def verdict(self, status: int, folder: AgentFolder) -> str | None:
        """Return what went wrong, None when nothing did, by its status from wait()."""
        code = os.waitstatus_to_exitcode(status)
        # guard: code-trial
        if code == _PASSED:
            folder.forget(TRIAL)
            return None
        last = folder.last_line(TRIAL)
        if self.late:
            return f"did not finish within {TRIAL_SECONDS} s" + (f": {last}" if last else "")
        if code < 0:
            return f"killed by signal {-code}" + (f": {last}" if last else "")
        return last or f"exited with code {code}"


def run_trial(module: str) -> None:
    """Be the trial: preload, and say by the exit code that it went well, or else by its last line."""
    # A host that is killed meanwhile must not leave it behind for ever.
    signal.alarm(TRIAL_SECONDS + 1)
    try:
        preload(module)
    except PreloadStartsThreads as failure:
        log.warning("%s", failure.detail)  # the host starts its agents by exec
    except PreloadFailed as failure:
        traceback.print_exception(failure.__cause__)
        sys.exit(" ".join(failure.detail.split()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_PASSED)
