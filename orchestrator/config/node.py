"""The settings of the programs of a node that use Redis. Agents get none: its address may contain a password."""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from orchestrator.config import redis_url
from orchestrator.config.agent import AgentSettings
from orchestrator.config.fields import EmptyIsNone
from orchestrator.config.redis_url import Address
from orchestrator.machine.private import load_or_empty


def _redis_url(value: str | None) -> str | None:
    if value is not None:
        redis_url.parse(value)
    return value


def _existing_file(value: Path | None) -> Path | None:
    if value is not None and not value.is_file():
        raise ValueError("there is no such file")
    return value


def _prefix(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{0,64}", value):
        raise ValueError("a prefix is at most 64 letters, digits and _ . : - as in voice:")
    return value if not value or value[-1] in ":._-" else f"{value}:"


class NodeSettings(AgentSettings):
    """The settings of one node that several of its programs share."""

    redis_url: Annotated[str | None, EmptyIsNone, AfterValidator(_redis_url)] = None
    """Redis or Valkey: redis://, rediss:// (TLS) or unix://. Unset: an embedded Valkey, on a socket in RUN_DIR."""
    redis_ca_file: Annotated[Path | None, EmptyIsNone, AfterValidator(_existing_file)] = None
    """Certificates (PEM) to trust for a rediss:// server, in addition to the system's."""
    redis_prefix: Annotated[str, AfterValidator(_prefix)] = ""
    """Prefix of every key, queue and channel of this orchestrator, for a database that other programs use too."""

    @property
    def redis(self) -> Address:
        """Address of Redis. Without REDIS_URL it is the embedded one's socket, with the node's generated password."""
        if self.redis_url:
            return redis_url.parse(self.redis_url, ca_file=self.redis_ca_file, prefix=self.redis_prefix)
        password = load_or_empty(self.secrets_file).get("VALKEY_PASSWORD")  # none before the node's first start
        return Address(path=str(self.valkey_socket), password=password, prefix=self.redis_prefix)

    @property
    def valkey_socket(self) -> Path:
        """Unix socket of the embedded Valkey."""
        return self.run_dir.absolute() / "valkey.sock"

    @property
    def secrets_file(self) -> Path:
        """File of generated secrets (mode 0600). It outlives a restart, as the state that they protect does."""
        return self.run_dir / "secrets.json"

    @model_validator(mode="after")
    def _one_certificate_authority(self) -> Self:
        try:
            _ = self.redis_url and self.redis
        except ValueError as failure:  # REDIS_URL and REDIS_CA_FILE contradict each other
            raise ValueError(f"REDIS_URL: {failure}") from None
        return self
