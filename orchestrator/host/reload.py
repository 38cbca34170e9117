"""Tries new code of the agent in a process of its own, before the agent host loads it."""

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.config.agent import AgentSettings
from orchestrator.errors import OrchestratorError
from orchestrator.host.preload import TRIAL, Trial
from orchestrator.host.spawn import reaped
from orchestrator.host.state_dir import AgentFolder

log = logging.getLogger("orchestrator.host")


class Reload:
    """The trial of new code, if one runs. `broadcast` sends its result to every client."""

    def __init__(
        self, settings: AgentSettings, folder: AgentFolder, broadcast: Callable[[dict[str, Any]], None]
    ) -> None:
        self._settings, self._folder, self._broadcast = settings, folder, broadcast
        self._trial: Trial | None = None
        #: Whether a trial succeeded and the host must load the new code.
        self.due = False

    def begin(self, environment: Mapping[str, str]) -> None:
        """Begin a trial, unless one runs. Raises `OrchestratorError`."""
        if self._trial is not None:
            return
        try:
            self._trial = Trial.start(self._folder, environment)
        except OSError as failure:
            raise OrchestratorError(f"cannot try the agent's module: {failure}") from None

    @property
    def deadlines(self) -> list[float]:
        """The monotonic time at which the trial must have ended, while one runs."""
        return [] if self._trial is None else [self._trial.deadline]

    def bound_log(self, log_bytes: int) -> None:
        """Bound what the trial prints."""
        if self._trial is not None:
            self._folder.bound_log(TRIAL, log_bytes)

    def reap(self) -> None:
        """Take note of a trial that has ended."""
        if self._trial is not None and (ended := reaped(self._trial.pid)) is not None:
            self._over(self._trial, ended[0])

    def kill_overdue(self, now: float) -> None:
        """Kill a trial that takes too long."""
        if self._trial is not None and now >= self._trial.deadline:
            self._trial.late = True
            self.cancel()

    def cancel(self) -> None:
        """Kill the trial, if one runs; clients receive its result."""
        if self._trial is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._trial.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self._trial.pid, os.WEXITED | os.WNOWAIT)
        ended = reaped(self._trial.pid)
        assert ended is not None
        self._over(self._trial, ended[0])

    def _over(self, trial: Trial, status: int) -> None:
        error = trial.verdict(status, self._folder)
        self._trial = None
        self._broadcast({"event": "reload", "error": error})
        if error is None:
            self.due = True
        else:
            log.error("%s is not reloaded: %s", self._settings.agent, error)
