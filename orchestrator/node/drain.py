"""Keeps the other programs running until the node's calls are over (drain_at_stop.py waits for the signal to stop).

It asks the api to drain this node, waits for the last call or for the end of DRAIN_SECONDS, and exits; a second signal
ends it at once. Calls go on without Redis and without the api. While the api cannot drain the node, a notice in RUN_DIR
tells the agents to leave, and each live agent counts as a call. The node's terminal shows this program's output.
"""

import sys
import time
from typing import Any

import httpx

from orchestrator.errors import OrchestratorError
from orchestrator.host.protocol import Process
from orchestrator.host.state_dir import AgentFolder
from orchestrator.machine import shutdown_notice
from orchestrator.machine.process import ProcessId, machine_boot_id
from orchestrator.machine.shutdown_notice import Notice
from orchestrator.node.api_client import admin_token
from orchestrator.operations import kill_window
from orchestrator.settings import Settings

POLL = 0.25


def main() -> None:
    """Drain this node, and return when its calls are over."""
    settings = Settings.load()
    with shutdown_notice.NoticeWriter(settings.run_dir) as notices, client(settings) as api:
        drain(settings, api, notices)


def client(settings: Settings) -> httpx.Client:
    """Return a client of this node's api."""
    token = admin_token(settings)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # The api is on this machine: a proxy from the environment could not reach it.
    return httpx.Client(base_url=settings.base_url, headers=headers, timeout=1, trust_env=False)


def drain(settings: Settings, api: httpx.Client, notices: shutdown_notice.NoticeWriter) -> None:
    """Drain this node and wait until it has no call, or for as long as DRAIN_SECONDS allows."""
    Drain(settings, api, notices).run()


class Drain:
    """One drain, from the signal to its end."""

    def __init__(self, settings: Settings, api: httpx.Client, notices: shutdown_notice.NoticeWriter) -> None:
        self._settings, self._api, self._notices = settings, api, notices
        self._path = f"/api/nodes/{settings.node_id}"
        self._limit = kill_window.drain_limit(settings)
        self._over_at = time.monotonic() + settings.drain_seconds
        self._asked = False  #: the api knows that this node drains
        self._trouble = ""  #: why the api could not drain, if it ever failed

    def run(self) -> None:
        """Drain."""
        deadline = time.monotonic() + self._limit
        calls = self._remaining_calls()
        if calls and self._limit:
            counted = "1 call has" if calls == 1 else f"{calls} calls have"
            if self._trouble:
                counted = f"{self._trouble}, so every live agent counts as a call. {counted}"
            _print(f"Draining: {counted} up to {self._settings.drain_seconds:g} s. Ctrl-C again stops now.")
        # guard: drain-waits
        while calls and time.monotonic() < deadline:
            time.sleep(POLL)
            calls = self._remaining_calls()

    def _remaining_calls(self) -> int:
        """Return an upper bound of the remaining calls."""
        try:
            calls = self._count_calls()
        except OrchestratorError as failure:
            if not self._limit:
                return 0
            self._trouble = self._trouble or failure.detail
            self._asked = False  # Redis may have lost the drain, or may have counted a pause into its deadline
            self._notices.publish(Notice(self._over_at - self._settings.goodbye_seconds, self._over_at))
            # guard: drain-counts-processes
            return self._count_living_agents()
        self._notices.withdraw()
        # A Redis that has just come back may not have every call registered yet.
        return max(calls, self._count_living_agents()) if self._trouble else calls

    def _count_calls(self) -> int:
        """Return the api's number of calls. Raises `OrchestratorError` if it does not answer with one."""
        method, path = ("GET", self._path) if self._asked else ("POST", f"{self._path}/drain")
        remaining = max(0.0, self._over_at - time.monotonic())
        options: dict[str, Any] = (
            {"params": {"seconds": round(remaining, 1)}} if self._trouble and not self._asked else {}
        )
        try:
            answer = self._api.request(method, path, **options)
            if not answer.is_success:
                raise OrchestratorError(f"the api answers {answer.status_code} to {method} {path}")
            calls = int(answer.json()["sessions"])
        except httpx.HTTPError as failure:
            raise OrchestratorError(f"the api does not answer ({failure})") from None
        except (ValueError, TypeError, KeyError):
            raise OrchestratorError(f"the answer to {method} {path} contains no number of sessions") from None
        self._asked = True
        return calls

    def _count_living_agents(self) -> int:
        """Return how many agents of this node live. The warm ones leave when they read the notice."""
        return sum(
            isinstance(record, Process)
            and record.boot_id == machine_boot_id()
            and ProcessId(record.pid, record.start_ticks).alive
            for record in AgentFolder(self._settings.agents_dir).records()
        )


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
