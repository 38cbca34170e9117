"""The program that supervisord stops first: it keeps the other programs up until the node's calls are over.

It sleeps until SIGTERM or SIGINT. Then it tells the api to drain this node, waits for the last call or for the end of
DRAIN_SECONDS, and exits; a second signal ends it at once. What it prints is shown on the node's terminal.
"""

import signal
import sys
import time

import httpx

from orchestrator import kill_window
from orchestrator.cli.http import admin_token
from orchestrator.errors import OrchestratorError
from orchestrator.settings import Settings

#: Seconds without one answer after which the api counts as gone.
SILENCE = 2.0
POLL = 0.25

_SIGNALS = {signal.SIGTERM, signal.SIGINT}


def main() -> None:
    """Wait for the signal to stop, then for the calls to end."""
    # Blocked and waited for, not handled: one that comes before the wait is kept for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    settings = Settings.load()
    with client(settings) as api:
        signal.sigwait(_SIGNALS)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        drain(settings, api)


def client(settings: Settings) -> httpx.Client:
    """Return a client of this node's api."""
    token = admin_token(settings)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # The api is on this machine: a proxy of the environment would not find it.
    return httpx.Client(base_url=settings.base_url, headers=headers, timeout=1, trust_env=False)


def drain(settings: Settings, api: httpx.Client) -> None:
    """Have this node drained and wait until it has no call, or as long as DRAIN_SECONDS allows."""
    path = f"/api/nodes/{settings.node_id}"
    limit = kill_window.drain_limit(settings)
    deadline = time.monotonic() + limit
    try:
        calls = _ask(api, "POST", f"{path}/drain", patience=min(SILENCE, limit))
        if calls and limit:
            _say(f"Draining: {_calls(calls)} up to {settings.drain_seconds:g} s. Ctrl-C again stops now.")
        while calls and time.monotonic() < deadline:
            time.sleep(POLL)
            calls = _ask(api, "GET", path, patience=SILENCE, known=calls)
    except OrchestratorError as failure:
        _say(f"Cannot drain: {failure.detail}. Stopping without.")


def _ask(api: httpx.Client, method: str, path: str, *, patience: float, known: int | None = None) -> int:
    """Return how many calls the node has. Raises `OrchestratorError` when the api does not say."""
    asked = time.monotonic()
    while True:
        try:
            answer = api.request(method, path)
            if answer.is_success:
                return int(answer.json()["sessions"])
        except httpx.HTTPError as failure:
            why = f"the api does not answer ({failure})"
        except (ValueError, TypeError, KeyError):
            raise OrchestratorError(f"{method} {path} is answered without a number of sessions") from None
        else:
            why = f"the api answers {answer.status_code} to {method} {path}"
            if answer.is_server_error and known is not None:
                return known  # an api that has lost its Redis is no reason to end the calls
            if not answer.is_server_error:
                raise OrchestratorError(why)
        if time.monotonic() - asked >= patience:
            raise OrchestratorError(why)
        time.sleep(POLL)


def _calls(count: int) -> str:
    return "1 call has" if count == 1 else f"{count} calls have"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
