"""How Celery reaches Redis: as the store does. Kombu's transport and Celery's results, with the one address' options.

Left to themselves each reads a URL by its own rules: one asks for ssl_cert_reqs, one checks no certificate without it,
one knows no unix://, and a variable of the environment wins over all of them.
"""

import os
from typing import Any, cast

from celery import Celery
from celery.backends.redis import RedisBackend
from celery.loaders.app import AppLoader
from kombu.transport import redis

from orchestrator.config.redis_url import Address
from orchestrator.store.connection import sync_connection, sync_options

#: Of the transport options: where Redis is.
ADDRESS = "address"
#: Environment variables that Celery's command line reads, beside all that begin with CELERY_.
_BARE = ("APP", "BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE", "SKIP_CHECKS")


def forget_celery_variables() -> None:
    """Drop what configures Celery from this process's environment: it would win over the node's settings."""
    for name in [name for name in os.environ if name.startswith("CELERY_") or name in _BARE]:
        del os.environ[name]


class Loader(AppLoader):  # type: ignore[misc]
    """Celery's loader, which reads no configuration module, whatever a variable names."""

    def read_configuration(self, env: str = "") -> dict[str, Any]:
        """Return nothing: the app is configured in code."""
        return {}


class Channel(redis.Channel):
    """kombu's channel."""

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        where: Address = self.connection.client.transport_options[ADDRESS]
        self.connection_class = self.connection_class_ssl = cast(Any, sync_connection(where))
        parameters: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        for name in ("host", "port", "socket_keepalive", "socket_keepalive_options", *where.options()):
            parameters.pop(name, None)
        return parameters | sync_options(where)


class Transport(redis.Transport):
    """kombu's transport. Takes no part of the URL that it is given: Celery insists on one."""

    Channel = Channel
    can_parse_url = True

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return where Redis is, for logs."""
        return str(cast(Any, self.client).transport_options[ADDRESS])


class Results(RedisBackend):  # type: ignore[misc]
    """Celery's results."""

    def __init__(self, app: Celery, url: str | None = None, **options: Any) -> None:
        super().__init__(app=app, **options)
        where: Address = app.conf.broker_transport_options[ADDRESS]
        for name in ("host", "port", "socket_keepalive"):
            self.connparams.pop(name, None)
        self.connparams |= sync_options(where) | {"connection_class": sync_connection(where)}
