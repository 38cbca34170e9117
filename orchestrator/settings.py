"""All settings, read once from the environment or `.env` and passed down.

The topics are in `config/`. `AgentSettings` has what agents and their host may know, `NodeSettings` adds Redis, and
only `Settings` adds secrets, so that a process that forks agents never has an address of Redis, the LiveKit secret or
the admin token in its memory.
"""

import base64
import binascii
import contextlib
import hashlib
import json
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from orchestrator.config.access import WEBHOOK_PATH, AccessSettings
from orchestrator.config.calls import CallSettings
from orchestrator.config.fields import CHECKED, EmptyIsNone, LivekitUrl, OptionalSecret, OptionalText, Port
from orchestrator.config.load import load
from orchestrator.config.node import NodeSettings

__all__ = ["CHECKED", "WEBHOOK_PATH", "NodeSettings", "Settings", "load"]


def _http_url(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not value.get_secret_value().startswith(("http://", "https://")):
        raise ValueError("it must begin with http:// or https://")
    return value


def _signing_key(value: SecretStr | None) -> SecretStr | None:
    prefix, _, encoded = value.get_secret_value().partition("_") if value else ("", "", "")
    with contextlib.suppress(binascii.Error):
        if value is None or (prefix == "whsec" and 24 <= len(base64.b64decode(encoded, validate=True)) <= 64):
            return value
    raise ValueError("it must be whsec_ and 24 to 64 bytes in base64: echo whsec_$(openssl rand -base64 32)")


class Settings(AccessSettings, CallSettings):
    """All settings of the orchestrator."""

    agent_name: Annotated[str, Field(min_length=1, max_length=64)] = "voice-agent"
    """Name under which LiveKit dispatches to this orchestrator."""
    livekit_api_key: OptionalText = None
    """LiveKit API key. Needed when LIVEKIT_URL is set."""
    livekit_api_secret: OptionalSecret = None
    """LiveKit API secret. Needed when LIVEKIT_URL is set."""
    livekit_public_url: LivekitUrl = None
    """LiveKit address given to users, where it differs from LIVEKIT_URL."""
    livekit_port: Port = 7880
    """Port of the local LiveKit server (loopback only); media uses the next one (TCP) and the one after (UDP)."""

    alert_webhook_url: Annotated[SecretStr | None, EmptyIsNone, AfterValidator(_http_url)] = None
    """URL to which critical events are sent (Standard Webhooks). Unset: none are sent."""
    alert_webhook_secret: Annotated[SecretStr | None, EmptyIsNone, AfterValidator(_signing_key)] = None
    """Key that signs them: `whsec_` and base64. Needed when ALERT_WEBHOOK_URL is set."""

    @property
    def policy(self) -> dict[str, float]:
        """The settings that the Lua scripts read, and whether they record alerts."""
        return super().policy | {"alert_webhooks": float(self.alert_webhook_url is not None)}

    @property
    def serves(self) -> str:
        """The settings that all nodes of one Redis must have in common, as JSON; of the LiveKit key only a digest."""
        return json.dumps({
            "AGENT_COMMAND" if self.agent_command else "AGENT_MODULE": self.agent,
            "AGENT_NAME": self.agent_name,
            "LIVEKIT_API_KEY": hashlib.sha256((self.livekit_api_key or "").encode()).hexdigest()[:12],
            **{name.upper(): f"{value:g}" for name, value in self.policy.items()},
        })  # fmt: skip

    @model_validator(mode="after")
    def _alerts_are_signed(self) -> Self:
        if self.alert_webhook_url is not None and self.alert_webhook_secret is None:
            raise ValueError(
                "ALERT_WEBHOOK_URL is set and ALERT_WEBHOOK_SECRET is not: receivers could not verify our messages "
                "(echo whsec_$(openssl rand -base64 32))"
            )
        return self

    @classmethod
    def load(cls) -> Self:
        """Read the settings. Raises `Preflight` as `config.load.load` does."""
        return load(cls)
