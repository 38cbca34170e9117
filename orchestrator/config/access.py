"""The settings of the api: its address, who may use it, and how much each client address may ask for."""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Self

from limits import RateLimitItem, parse
from pydantic import AfterValidator, Field, model_validator

from orchestrator.config.fields import CHECKED, Folder, OptionalSecret, Port, split_list
from orchestrator.config.node import NodeSettings
from orchestrator.config.root_path import parse_root_path
from orchestrator.machine.loopback import bracketed

#: The path to which LiveKit sends its webhooks.
WEBHOOK_PATH = "/api/livekit/webhook"
#: Minimum length of an API key and of the admin token: too long to guess.
_MIN_KEY_LENGTH = 16


def _rate(value: str) -> str:
    try:
        parse(value)
    except ValueError:
        raise ValueError("write it as AMOUNT/PERIOD, for example 10/minute or 200/hour") from None
    return value


def _trusted_proxy(value: str) -> str:
    if value != "railway":
        for network in split_list(value):
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ValueError(f"{network} is neither railway nor a network of proxies, as 10.0.0.0/8") from None
    return value


def _origins(value: str) -> str:
    for origin in split_list(value):
        if origin != "*" and not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+", origin):
            raise ValueError(f"{origin} is no origin: write scheme, host and port alone, as https://app.example")
    return value


def _host_names(value: str) -> str:
    for host in split_list(value):
        if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]", host):
            raise ValueError(f"{host} is no host name: write it alone, as talk.example or *.talk.example")
    return value


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class AccessSettings(NodeSettings):
    """Where the api listens, who may call it, and how often."""

    host: str = "127.0.0.1"
    """Address the api listens on. Everything but loopback exposes the start route: put a proxy in front."""
    port: Port = 8080
    """Port of the api."""
    frontend_port: Annotated[int, Field(ge=0, le=65535)] = 3000
    """A second port for the page with the Talk button, which PORT serves too. 0: PORT only."""
    frontend_dir: Folder = Path(__file__).resolve().parents[2] / "frontend" / "dist"
    """Folder of the built page."""
    root_path: Annotated[str, AfterValidator(parse_root_path)] = ""
    """Path, as /voice, under which a reverse proxy serves the node. The proxy may strip it or leave it."""
    admin_token: OptionalSecret = None
    """Bearer token of the admin routes. Unset: generated, kept in RUN_DIR and shown on the terminal at start."""
    api_keys: OptionalSecret = None
    """Comma-separated secrets, one of which each caller of the api must send. Unset: the api is open, on loopback."""
    open_access: bool = False
    """Let anybody start calls though HOST is not loopback and API_KEYS is not set."""
    trusted_proxy: Annotated[str, AfterValidator(_trusted_proxy)] = ""
    """Proxies that are trusted to name the client's address: `railway`, or comma-separated networks (10.0.0.0/8)."""
    connections_per_address: Annotated[int, Field(ge=0)] = 256
    """Connections to the api that one client address may have at once; TRUSTED_PROXY is exempt. 0: no limit."""
    cors_origins: Annotated[str, AfterValidator(_origins)] = ""
    """Comma-separated origins (https://app.example) of pages that may call the api, or *. Unset: those on loopback."""
    allowed_hosts: Annotated[str, AfterValidator(_host_names)] = ""
    """Comma-separated names (talk.example, *.talk.example) under which browsers may reach the api, beside loopback's.
    Unset: an open api on loopback serves no other name, any other api serves every name."""
    rate_limit: Annotated[str, AfterValidator(_rate)] = "10/minute"
    """Starts per client address, as AMOUNT/PERIOD. An IPv6 client is counted by its /64; its /48 may have four times as
    many."""
    token_rate_limit: Annotated[str, AfterValidator(_rate)] = "60/minute"  # noqa: S105
    """Tokens for new rooms per client address, as AMOUNT/PERIOD: each may become a call."""
    sessions_per_address: Annotated[int, Field(ge=0)] = 10
    """Live sessions, waiting ones included, that one client address may have where the api is open; an IPv6 /48 may
    have four times as many. 0: no limit."""
    waiting_per_address: Annotated[int, Field(ge=0)] = 5
    """Waiting sessions among them. 0: no limit."""

    @property
    def rate(self) -> RateLimitItem:
        """`rate_limit`, parsed."""
        return parse(self.rate_limit)

    @property
    def token_rate(self) -> RateLimitItem:
        """`token_rate_limit`, parsed."""
        return parse(self.token_rate_limit)

    @property
    def base_url(self) -> str:
        """URL of the api for programs on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{bracketed(host)}:{self.port}"

    @property
    def webhook_url(self) -> str:
        """URL for the webhooks of a LiveKit server on this machine."""
        return self.base_url + WEBHOOK_PATH

    @property
    def page_url(self) -> str:
        """URL of the page with the Talk button for a browser on this machine."""
        return self.base_url.rpartition(":")[0] + f":{self.frontend_port or self.port}"

    @property
    def keys(self) -> tuple[str, ...]:
        """The items of `api_keys`."""
        return split_list(self.api_keys.get_secret_value()) if self.api_keys else ()

    @property
    def origins(self) -> tuple[str, ...]:
        """The items of `cors_origins`."""
        return split_list(self.cors_origins)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The items of `allowed_hosts`, in lower case."""
        return split_list(self.allowed_hosts.lower())

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the api."""
        return self.host == "localhost" or (_is_address(self.host) and ipaddress.ip_address(self.host).is_loopback)

    @property
    def access_trouble(self) -> str | None:
        """Why anybody could start calls although OPEN_ACCESS does not allow it, and what to set; else None."""
        if self.keys or self.loopback or self.open_access:
            return None
        return (
            f"HOST={self.host} without API_KEYS would let anybody start calls: set API_KEYS "
            "(openssl rand -hex 24), or OPEN_ACCESS=true if that is meant"
        )

    @model_validator(mode="after")
    def _access_is_meant(self) -> Self:
        if any(len(key) < _MIN_KEY_LENGTH for key in self.keys):
            raise ValueError(
                f"API_KEYS has a key of less than {_MIN_KEY_LENGTH} characters; make one with: openssl rand -hex 24"
            )
        if self.admin_token is not None and len(self.admin_token.get_secret_value()) < _MIN_KEY_LENGTH:
            raise ValueError(
                f"ADMIN_TOKEN has less than {_MIN_KEY_LENGTH} characters; make one with: openssl rand -hex 24"
            )
        # Among the programs of a node only the api receives API_KEYS; it checks `access_trouble` itself.
        if CHECKED not in os.environ and self.access_trouble:
            raise ValueError(self.access_trouble)
        return self
