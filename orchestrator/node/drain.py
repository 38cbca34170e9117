"""The program that supervisord stops first: it keeps the other programs up until the node's calls are over.

It sleeps until SIGTERM or SIGINT. Then it tells the api to drain this node, waits for the last call or for the end of
DRAIN_SECONDS, and exits; a second signal ends it at once. Calls go on without Redis and without the api, so neither is
needed for that: while the api cannot drain, the node's agents are told through RUN_DIR, and each that lives counts as a
call. What it prints is shown on the node's terminal.
"""

import signal
import sys
import time
from typing import Any

import httpx

from orchestrator.errors import OrchestratorError
from orchestrator.host.protocol import Process
from orchestrator.host.state_dir import AgentFolder
from orchestrator.machine.process import ProcessId, machine_boot_id
from orchestrator.node import parting
from orchestrator.node.api_client import admin_token
from orchestrator.operations import kill_window
from orchestrator.settings import Settings

POLL = 0.25

_SIGNALS = {signal.SIGTERM, signal.SIGINT}


def main() -> None:
    """Wait for the signal to stop, then for the calls to end."""
    # Blocked and waited for, not handled: one that comes before the wait is kept for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    settings = Settings.load()
    with parting.Speaker(settings.run_dir) as speaker, client(settings) as api:
        signal.sigwait(_SIGNALS)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        drain(settings, api, speaker)


def client(settings: Settings) -> httpx.Client:
    """Return a client of this node's api."""
    token = admin_token(settings)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # The api is on this machine: a proxy of the environment would not find it.
    return httpx.Client(base_url=settings.base_url, headers=headers, timeout=1, trust_env=False)


def drain(settings: Settings, api: httpx.Client, speaker: parting.Speaker) -> None:
    """Have this node drained and wait until it has no call, or as long as DRAIN_SECONDS allows."""
    Drain(settings, api, speaker).run()


class Drain:
    """One drain, from the signal to its end."""

    def __init__(self, settings: Settings, api: httpx.Client, speaker: parting.Speaker) -> None:
        self._settings, self._api, self._speaker = settings, api, speaker
        self._path = f"/api/nodes/{settings.node_id}"
        self._limit = kill_window.drain_limit(settings)
        self._over_at = time.monotonic() + settings.drain_seconds
        self._asked = False  #: the api knows that this node drains
        self._trouble = ""  #: why the api could not drain, once that has been so

    def run(self) -> None:
        """Drain."""
        deadline = time.monotonic() + self._limit
        calls = self._left()
        if calls and self._limit:
            who = "1 call has" if calls == 1 else f"{calls} calls have"
            if self._trouble:
                who = f"{self._trouble}, so every agent that lives counts as a call. {who}"
            _say(f"Draining: {who} up to {self._settings.drain_seconds:g} s. Ctrl-C again stops now.")
        # guard: drain-waits
        while calls and time.monotonic() < deadline:
            time.sleep(POLL)
            calls = self._left()

    def _left(self) -> int:
        """Return how many calls are left, at most."""
        try:
            calls = self._ask()
        except OrchestratorError as failure:
            if not self._limit:
                return 0
            self._trouble = self._trouble or failure.detail
            self._asked = False  # what Redis knew may be lost, and its deadline be later than ours
            self._speaker.say(parting.Word(self._over_at - self._settings.goodbye_seconds, self._over_at))
            # guard: drain-counts-processes
            return self._living()
        self._speaker.take_back()
        # Of a Redis that has just come back nobody knows yet what it has missed.
        return max(calls, self._living()) if self._trouble else calls

    def _ask(self) -> int:
        """Return how many calls the api knows of. Raises `OrchestratorError` when it does not say."""
        method, path = ("GET", self._path) if self._asked else ("POST", f"{self._path}/drain")
        left = max(0.0, self._over_at - time.monotonic())
        options: dict[str, Any] = {"params": {"seconds": round(left, 1)}} if self._trouble and not self._asked else {}
        try:
            answer = self._api.request(method, path, **options)
            if not answer.is_success:
                raise OrchestratorError(f"the api answers {answer.status_code} to {method} {path}")
            calls = int(answer.json()["sessions"])
        except httpx.HTTPError as failure:
            raise OrchestratorError(f"the api does not answer ({failure})") from None
        except (ValueError, TypeError, KeyError):
            raise OrchestratorError(f"{method} {path} is answered without a number of sessions") from None
        self._asked = True
        return calls

    def _living(self) -> int:
        """Return how many agents of this node live: the warm ones go when they are told."""
        return sum(
            isinstance(record, Process)
            and record.boot_id == machine_boot_id()
            and ProcessId(record.pid, record.start_ticks).alive
            for record in AgentFolder(self._settings.agents_dir).records()
        )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
