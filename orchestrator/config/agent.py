"""The settings that an agent host and its agents may know. No secret is among them, and no address of Redis."""

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator.config.fields import Folder, LivekitUrl, OptionalText, Seconds


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


class AgentSettings(BaseSettings):
    """The settings of one node's agent host and its agents."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, validate_default=True)

    node_id: Annotated[str, AfterValidator(_node_id)] = Field(default_factory=_default_node_id)
    """Name of this node; stable across restarts, unique among the nodes that share one Redis. Default: the host name,
    and on Railway the ends of the deployment's and the replica's ids."""
    run_dir: Folder = Path(".run")
    """Folder for sockets, state, logs and generated secrets of this node."""
    livekit_url: LivekitUrl = None
    """LiveKit address (ws:// or wss://). Unset: a local LiveKit server is started."""

    agent_module: str = "agents/voice.py"
    """The agent: a Python file, by its path, or an importable module. It has an AgentServer or WorkerOptions of LiveKit
    Agents, or `async def entrypoint(ctx)`."""
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
    shutdown_seconds: Seconds = 60.0
    """Seconds that an agent has for its work after the call, such as saving a transcript. Its session is over then."""
    stop_grace_seconds: Seconds = 1.5
    """Seconds between SIGTERM and SIGKILL when an agent is stopped."""

    @property
    def agent(self) -> str:
        """The agent, by its command line or its module."""
        return self.agent_command or self.agent_module

    @property
    def relay_socket(self) -> Path:
        """Unix socket of this node's relay, which carries its agents' messages to Redis and back."""
        return self.run_dir / "relay.sock"

    @property
    def host_socket(self) -> Path:
        """Unix socket of this node's agent host."""
        return self.run_dir / "host.sock"

    @property
    def agents_dir(self) -> Path:
        """Folder with one record and one log file per agent process of this node."""
        return self.run_dir / "agents"
