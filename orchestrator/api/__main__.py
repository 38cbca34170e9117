"""The api's process: one application on two ports, its own and that of the page with the Talk button."""

import logging
import socket
import sys

import uvicorn

from orchestrator.logs import configure_logging
from orchestrator.settings import Settings

log = logging.getLogger("orchestrator.api")

#: Seconds for which an idle connection is kept: longer than proxies do (60 is usual), or one would now and then send a
#: request into a connection that is just being closed, and answer its user 502.
KEEP_ALIVE_SECONDS = 75
#: Seconds for which requests that are under way are waited for when it is stopped.
GRACEFUL_SECONDS = 3


def main(application: str = "orchestrator.api.app:create") -> None:
    """Serve what a factory makes until told to stop."""
    settings = Settings.load()
    configure_logging(settings.log_format)
    # Forwarded headers are not believed: whoever sends them would choose the address that is rate-limited.
    config = uvicorn.Config(
        application, factory=True, host=settings.host, port=settings.port, proxy_headers=False,
        server_header=False, access_log=False, log_config=None, timeout_graceful_shutdown=GRACEFUL_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )  # fmt: skip
    server = uvicorn.Server(config)
    sockets = [config.bind_socket(), *_page_socket(settings)]
    server.run(sockets)
    if not server.started:
        sys.exit(3)


def _page_socket(settings: Settings) -> list[socket.socket]:
    """Open the page's port. One that is taken meanwhile costs the page its second address, and nobody the api."""
    if settings.frontend_port in {0, settings.port}:
        return []
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return [socket.create_server((settings.host, settings.frontend_port), family=family, backlog=2048)]
    except OSError as failure:
        log.warning("the page is on PORT alone: FRONTEND_PORT=%d: %s", settings.frontend_port, failure)
        return []


if __name__ == "__main__":
    main()
