"""The configuration of uvicorn, with bounds."""

from functools import partial

import uvicorn
from fastapi import FastAPI

from orchestrator.api.addresses import is_proxy
from orchestrator.api.connections import Connections, raise_file_limit
from orchestrator.api.protocol import bounded_by
from orchestrator.settings import Settings

#: Seconds for which an idle connection is kept: longer than by proxies (60 is usual), or a proxy would now and then
#: send a request on a connection that is just being closed, and answer 502.
KEEP_ALIVE_SECONDS = 75
#: Seconds for which a stop waits for requests in progress.
GRACEFUL_SECONDS = 3


def configuration(app: FastAPI | str, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration for an app, or for the name of its factory."""
    # One proxy carries many clients.
    exempt = partial(is_proxy, trusted=settings.trusted_proxy)
    connections = Connections(raise_file_limit(), settings.connections_per_address, exempt)
    # uvicorn must not apply forwarded headers: any client could choose its address (see addresses.py).
    return uvicorn.Config(
        app, factory=isinstance(app, str), proxy_headers=False, server_header=False, access_log=False, log_config=None,
        timeout_graceful_shutdown=GRACEFUL_SECONDS, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        http=bounded_by(connections), ws="none",
    )  # fmt: skip
