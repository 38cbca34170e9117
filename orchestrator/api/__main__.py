"""The api's process: one application on two ports, the API's and the page's."""

import sys

import uvicorn

from orchestrator.api.server import configuration
from orchestrator.api.sockets import listening
from orchestrator.errors import Preflight
from orchestrator.logs import configure_logging
from orchestrator.settings import Settings


def main(application: str = "orchestrator.api.app:create") -> None:
    """Serve the application that a factory builds, until SIGTERM."""
    try:
        settings = Settings.load()
        configure_logging(settings.log_format)
        sockets = listening(settings)
    except Preflight as failure:
        sys.exit(f"error: {failure.detail}")
    server = uvicorn.Server(configuration(application, settings))
    server.run(sockets)
    if not server.started:
        sys.exit(3)


if __name__ == "__main__":
    main()
