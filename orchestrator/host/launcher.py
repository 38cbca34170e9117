"""Starts agents: by fork from a host that has loaded their code, or by exec of a fresh interpreter.

Failure cases: the agent's module cannot be loaded → agents are started by exec, and each reports the error itself;
it starts threads → the same, where threads are allowed; it kills the host or hangs while it is loaded → after the
second time it is not loaded again.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable

from orchestrator.config.agent import AgentSettings
from orchestrator.errors import OrchestratorError
from orchestrator.host.preload import RUNTIME, PreloadCrashes, PreloadFailed, PreloadStartsThreads, bounded, preload
from orchestrator.host.spawn import agent_environment, start_by_exec, start_by_fork
from orchestrator.host.state_dir import AgentFolder

log = logging.getLogger("orchestrator.host")


class Launcher:
    """How agents are started on this node."""

    def __init__(self, settings: AgentSettings, folder: AgentFolder) -> None:
        self._settings, self._folder = settings, folder
        #: Whether the agent's code is loaded here, so that agents are forked.
        self.preloads = settings.agent_start_method == "fork" or (
            settings.agent_start_method == "auto" and sys.platform == "linux"
        )
        #: Why agents are started by exec although they should be forked; '' when they are not.
        self.warning = ""
        self.preload_crashes = PreloadCrashes(settings.agents_dir, settings.agent)
        self._environment = agent_environment(settings)
        self._main: Callable[[str], None] | None = None

    def preload(self, preload_failure: str | None) -> str | None:
        """Load the agent's code, where agents are forked from here; returns why this process must be replaced.

        `preload_failure`: why an earlier image of this host could not load it.
        """
        module = self._settings.agent
        if not self.preloads:
            return None
        if preload_failure is None and self.preload_crashes.too_many:
            preload_failure = "it has killed the agent host more than once while it was loaded, or hung"
        if preload_failure is not None:
            self.warning = (
                f"{module} cannot be preloaded: {preload_failure}. Agents are started by exec until a reload succeeds."
            )
            log.warning("%s", self.warning)
            return None
        # The module gets its agents' environment, and its changes stay set in them.
        os.environ.update(self._environment)
        try:
            with self.preload_crashes.counted(), bounded(self._settings.preload_seconds):
                self._main = preload(module)
        except (PreloadFailed, PreloadStartsThreads) as failure:
            log.warning(
                "%s cannot be preloaded", module, exc_info=failure if isinstance(failure, PreloadFailed) else None
            )
            # A module that failed half-way may have left threads, signal handlers or a gigabyte in this process.
            return failure.detail
        return None

    def start(self, agent_id: str, disown: Callable[[], None]) -> int:
        """Start an agent process; returns its pid. `disown` closes, in a forked one, what is this host's.

        Raises:
            OrchestratorError: it cannot be started.
        """
        try:
            if self._main is not None:
                return start_by_fork(self._main, agent_id, self._folder, disown)
            argv = [sys.executable, "-m", RUNTIME]
            return start_by_exec(argv, agent_id, self._folder, self._environment | {"AGENT_ID": agent_id})
        except (OSError, ValueError, subprocess.SubprocessError) as failure:
            raise OrchestratorError(f"cannot start the agent process: {failure}") from None
