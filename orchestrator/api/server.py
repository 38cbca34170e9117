"""How the app is served: uvicorn with bounds."""

from functools import partial

import uvicorn
from fastapi import FastAPI

from orchestrator.api.addresses import is_proxy
from orchestrator.api.connections import Connections, raise_file_limit
from orchestrator.api.protocol import bounded_by
from orchestrator.settings import Settings

#: Seconds for which an idle connection is kept: longer than proxies do (60 is usual), or one would now and then send a
#: request into a connection that is just being closed, and answer its user 502.
KEEP_ALIVE_SECONDS = 75
#: Seconds for which requests that are under way are waited for when it is stopped.
GRACEFUL_SECONDS = 3


def configuration(app: FastAPI | str, settings: Settings) -> uvicorn.Config:
    """Return what uvicorn serves an app by: one that is made, or the name of a factory."""
    # Behind a proxy there are many callers.
    exempt = partial(is_proxy, trusted=settings.trusted_proxy)
    connections = Connections(raise_file_limit(), settings.connections_per_address, exempt)
    # Forwarded headers are not believed: whoever sends them would choose the address that is rate-limited.
    return uvicorn.Config(
        app, factory=isinstance(app, str), proxy_headers=False, server_header=False, access_log=False, log_config=None,
        timeout_graceful_shutdown=GRACEFUL_SECONDS, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        http=bounded_by(connections), ws="none",
    )  # fmt: skip
