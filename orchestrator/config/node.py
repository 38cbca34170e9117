"""The settings that an agent host and its agents may know. No secret is among them but the address of Redis."""

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator.config import redis_url
from orchestrator.config.fields import EmptyIsNone, Folder, LivekitUrl, OptionalText, Seconds
from orchestrator.config.redis_url import Address
from orchestrator.machine.private import load_or_empty


def _node_id(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", value)[:64]


def _default_node_id() -> str:
    """Return the host name; on Railway the ends of the deployment's and the replica's ids.

    During a deploy on Railway two containers overlap, and nothing guarantees that their host names differ. Railway's
    ids are UUIDs of several versions; all of them differ at the end, while version 7 begins with the time.
    """
    ids = (os.environ.get(f"RAILWAY_{kind}_ID", "") for kind in ("DEPLOYMENT", "REPLICA"))
    ends = [value[-8:] for value in ids if value]
    return "-".join(["railway", *ends]) if ends else socket.gethostname()


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


class NodeSettings(BaseSettings):
    """The settings of one node's agent host and its agents."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, validate_default=True)

    node_id: Annotated[str, AfterValidator(_node_id)] = Field(default_factory=_default_node_id)
    """Name of this node; stable across restarts, unique among the nodes that share one Redis. Default: the host name,
    and on Railway the ends of the deployment's and the replica's ids."""
    run_dir: Folder = Path(".run")
    """Folder for sockets, state, logs and generated secrets of this node."""
    redis_url: Annotated[str | None, EmptyIsNone, AfterValidator(_redis_url)] = None
    """Redis or Valkey: redis://, rediss:// (TLS) or unix://. Unset: an embedded Valkey, on a socket in RUN_DIR."""
    redis_ca_file: Annotated[Path | None, EmptyIsNone, AfterValidator(_existing_file)] = None
    """Certificates (PEM) to trust for a rediss:// server, in addition to the system's."""
    redis_prefix: Annotated[str, AfterValidator(_prefix)] = ""
    """Prefix of every key, queue and channel of this orchestrator, for a database that other programs use too."""
    livekit_url: LivekitUrl = None
    """LiveKit address (ws:// or wss://). Unset: a local LiveKit server is started."""

    agent_module: str = "agents/voice.py"
    """The agent: a Python file, by its path, or an importable module. It has `async def entrypoint(ctx)`, and may have
    `prewarm()`."""
    agent_command: OptionalText = None
    """The agent instead of AGENT_MODULE: the command line of a program that speaks docs/agent-protocol.md."""
    agent_start_method: Literal["auto", "fork", "exec"] = "auto"
    """`fork` from a preloaded host (20-50 ms) or `exec` a fresh interpreter; `auto` forks on Linux."""
    preload_seconds: Seconds = 60.0
    """Time limit of the agent host for loading AGENT_MODULE and running its `prewarm()`."""
    agent_env: str = ""
    """Comma-separated names of further environment variables that agents may see."""
    agent_data_mb: Annotated[int, Field(ge=1)] = 16
    """MiB of data (streams, packets, RPC calls) that a caller may send an agent at once, and again every ten minutes. A
    caller who sends more ends the session. Audio does not count."""
    agent_log_bytes: Annotated[int, Field(ge=65_536)] = 10_000_000
    """Largest size of one agent's log file on disk, in bytes; the oldest output beyond it is dropped."""
    log_format: Literal["text", "json"] = "text"
    """Format of the orchestrator's own logs: `text` for people, `json` (one object a line) for platforms."""
    log_to: Literal["files", "stdout"] = "files"
    """Where the programs' logs go: `files` in RUN_DIR, or also to the `stdout` of the node, where a platform collects
    them."""
    heartbeat_seconds: Seconds = 2.0
    """Seconds between two heartbeats of an agent."""
    stop_grace_seconds: Seconds = 1.5
    """Seconds between SIGTERM and SIGKILL when an agent is stopped."""

    @property
    def agent(self) -> str:
        """The agent, by its command line or its module."""
        return self.agent_command or self.agent_module

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
    def host_socket(self) -> Path:
        """Unix socket of this node's agent host."""
        return self.run_dir / "host.sock"

    @property
    def agents_dir(self) -> Path:
        """Folder with one record and one log file per agent process of this node."""
        return self.run_dir / "agents"

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
