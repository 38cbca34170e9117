"""Every setting, read once from the environment or `.env` and passed down.

`NodeSettings` holds what the agent host may know; `Settings` adds what only the control plane may know,
so that a process which forks agents never has the LiveKit secret or the admin token in its memory.
"""

import base64
import binascii
import contextlib
import hashlib
import ipaddress
import json
import os
import re
import socket
import unicodedata
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from limits import RateLimitItem, parse
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator.config import redis_url
from orchestrator.config.redis_url import Address
from orchestrator.config.root_path import parse_root_path
from orchestrator.errors import Preflight
from orchestrator.machine.loopback import bracketed
from orchestrator.machine.private import kept


def _node_id(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", value)[:64]


def _own_name() -> str:
    """Return the name of a node that was given none: the host's.

    On Railway two containers overlap during a deploy, and nothing says that their host names differ. What differs in
    Railway's ids, whichever kind of UUID they are, is their end: of one kind the beginning is the time.
    """
    ids = (os.environ.get(f"RAILWAY_{kind}_ID", "") for kind in ("DEPLOYMENT", "REPLICA"))
    tails = [found[-8:] for found in ids if found]
    return "-".join(["railway", *tails]) if tails else socket.gethostname()


def _rate(value: str) -> str:
    try:
        parse(value)
    except ValueError:
        raise ValueError("write it as AMOUNT/PERIOD, for example 10/minute or 200/hour") from None
    return value


def _proxy(value: str) -> str:
    if value != "railway":
        for network in filter(None, (part.strip() for part in value.split(","))):
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ValueError(f"{network} is neither railway nor a network of proxies, as 10.0.0.0/8") from None
    return value


def plain_path(value: Path) -> Path:
    """Return a path that can be told in one line. Raises ValueError for one with a newline or the like in it."""
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in str(value)):
        raise ValueError("it has a control character, or one that is no UTF-8, in it: rename the folder")
    return value


def _redis(value: str | None) -> str | None:
    if value is not None:
        redis_url.parse(value)
    return value


def _file(value: Path | None) -> Path | None:
    if value is not None and not value.is_file():
        raise ValueError("there is no such file")
    return value


def _prefix(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{0,64}", value):
        raise ValueError("at most 64 letters, digits and _ . : - make a prefix, as voice:")
    return value if not value or value[-1] in ":._-" else f"{value}:"


def _origins(value: str) -> str:
    for origin in filter(None, (part.strip() for part in value.split(","))):
        if origin != "*" and not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+", origin):
            raise ValueError(f"{origin} is no origin: write scheme, host and port alone, as https://app.example")
    return value


def _hosts(value: str) -> str:
    for host in filter(None, (part.strip() for part in value.split(","))):
        if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]", host):
            raise ValueError(f"{host} is no host name: write it alone, as talk.example or *.talk.example")
    return value


def _livekit(value: str | None) -> str | None:
    if value is None:
        return value
    parts = urlsplit(value)
    if parts.scheme not in {"ws", "wss", "http", "https"} or not parts.hostname:
        raise ValueError("write it as wss://your-project.livekit.cloud, or ws://HOST:PORT for a server without TLS")
    if parts.username or parts.password:
        raise ValueError("it has a user or a password in it, and callers are told it")
    return value


def _http(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not value.get_secret_value().startswith(("http://", "https://")):
        raise ValueError("it begins with http:// or https://")
    return value


def _signing(value: SecretStr | None) -> SecretStr | None:
    prefix, _, encoded = value.get_secret_value().partition("_") if value else ("", "", "")
    with contextlib.suppress(binascii.Error):
        if value is None or (prefix == "whsec" and 24 <= len(base64.b64decode(encoded, validate=True)) <= 64):
            return value
    raise ValueError("it is whsec_ and 24 to 64 random bytes in base64: echo whsec_$(openssl rand -base64 32)")


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


#: Characters that an api key, and the admin token, must have: nobody guesses that.
SHORTEST_KEY = 16
#: Set by `orchestrator up` for the programs of its node: it has read `.env` and has looked at all settings together, of
#: which each program is given a part.
CHECKED = "SETTINGS_CHECKED"
#: Where LiveKit sends its webhooks to.
WEBHOOK_PATH = "/api/livekit/webhook"

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
Folder = Annotated[Path, AfterValidator(plain_path)]
S = TypeVar("S", bound="NodeSettings")
OptionalText = Annotated[str | None, BeforeValidator(_empty_is_none)]
LivekitUrl = Annotated[str | None, BeforeValidator(_empty_is_none), AfterValidator(_livekit)]


class NodeSettings(BaseSettings):
    """What one node's agent host and its agents need. Holds no secret but the Redis address."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, validate_default=True)

    node_id: Annotated[str, AfterValidator(_node_id)] = Field(default_factory=_own_name)
    """Name of this node; stable across restarts, unique among the nodes that share one Redis. Default: the host's, and
    on Railway the ends of the deployment's and the replica's ids."""
    run_dir: Folder = Path(".run")
    """Folder for sockets, state, logs and generated secrets of this node."""
    redis_url: Annotated[str | None, BeforeValidator(_empty_is_none), AfterValidator(_redis)] = None
    """Redis or Valkey: redis://, rediss:// (TLS) or unix://. Unset: an embedded Valkey, on a socket in RUN_DIR."""
    redis_ca_file: Annotated[Path | None, BeforeValidator(_empty_is_none), AfterValidator(_file)] = None
    """Certificates (PEM) that a rediss:// server's may be signed by, beside those that the system trusts."""
    redis_prefix: Annotated[str, AfterValidator(_prefix)] = ""
    """Stands before every key, queue and channel of this orchestrator, where other programs use the same database."""
    livekit_url: LivekitUrl = None
    """LiveKit address (ws:// or wss://). Unset: a local LiveKit server is started."""

    agent_module: str = "agents.voice"
    """Python module of the agent: `async def entrypoint(ctx)` and an optional `prewarm()`."""
    agent_command: OptionalText = None
    """A plain command line to run as the agent instead of AGENT_MODULE."""
    agent_start_method: Literal["auto", "fork", "exec"] = "auto"
    """`fork` from a preloaded host (20-50 ms) or `exec` a fresh interpreter; `auto` forks on Linux."""
    preload_seconds: Seconds = 60.0
    """Loading AGENT_MODULE and its `prewarm()` may take the agent host this long; longer counts as hanging."""
    agent_env: str = ""
    """Comma-separated names of further environment variables that agents may see."""
    agent_data_mb: Annotated[int, Field(ge=1)] = 16
    """MiB that a caller may send an agent as data (streams, packets, calls of its methods): so much at once, and as
    much again in ten minutes. One that sends more ends its session. Audio does not count."""
    agent_log_bytes: Annotated[int, Field(ge=65_536)] = 10_000_000
    """Largest size of one agent's log file on disk, in bytes; beyond it the oldest output is dropped."""
    log_format: Literal["text", "json"] = "text"
    """How the orchestrator's own programs log: `text` for people, `json` (one object a line) for platforms."""
    log_to: Literal["files", "stdout"] = "files"
    """Where the programs' logs go: `files` in RUN_DIR, or `stdout` of the node too, where a platform collects them."""
    heartbeat_seconds: Seconds = 2.0
    """Seconds between two heartbeats of an agent."""
    stop_grace_seconds: Seconds = 1.5
    """Seconds between SIGTERM and SIGKILL when an agent is stopped."""

    @property
    def redis(self) -> Address:
        """Where Redis is: without REDIS_URL the embedded one's socket, whose password is one of the node's secrets."""
        if self.redis_url:
            return redis_url.parse(self.redis_url, ca_file=self.redis_ca_file, prefix=self.redis_prefix)
        found = kept(self.secrets_file)  # not started yet: there is nobody to be let in by
        return Address(path=str(self.valkey_socket), password=found.get("VALKEY_PASSWORD"), prefix=self.redis_prefix)

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
        """Generated secrets (mode 0600): kept, so that the node finds its state again."""
        return self.run_dir / "secrets.json"


class Settings(NodeSettings):
    """All settings of the orchestrator."""

    host: str = "127.0.0.1"
    """Address the api listens on. Everything but loopback exposes the start route: put a proxy in front."""
    port: Port = 8080
    """Port of the api."""
    frontend_port: Annotated[int, Field(ge=0, le=65535)] = 3000
    """Port of the page with the Talk button, which is at PORT too. 0: there alone."""
    frontend_dir: Folder = Path(__file__).resolve().parents[1] / "frontend" / "dist"
    """Folder of the built page."""
    root_path: Annotated[str, AfterValidator(parse_root_path)] = ""
    """Path, as /voice, below which a reverse proxy serves the node; whether it takes the path off does not matter."""
    admin_token: Annotated[SecretStr | None, BeforeValidator(_empty_is_none)] = None
    """Bearer token of the admin routes. Unset: generated, kept in RUN_DIR and shown on the terminal at start."""
    api_keys: Annotated[SecretStr | None, BeforeValidator(_empty_is_none)] = None
    """Comma-separated secrets, one of which each caller of the api must send. Unset: the api is open, on loopback."""
    open_access: bool = False
    """Let anybody start calls though HOST is not loopback and API_KEYS is not set."""
    trusted_proxy: Annotated[str, AfterValidator(_proxy)] = ""
    """Whose word for the client's address counts: `railway`, or comma-separated networks of proxies (10.0.0.0/8)."""
    connections_per_address: Annotated[int, Field(ge=0)] = 256
    """Connections to the api that one client address may have at once; TRUSTED_PROXY has no bound. 0: nobody has."""
    cors_origins: Annotated[str, AfterValidator(_origins)] = ""
    """Comma-separated origins (https://app.example) of pages that may call the api, or *. Unset: those on loopback."""
    allowed_hosts: Annotated[str, AfterValidator(_hosts)] = ""
    """Comma-separated names (talk.example, *.talk.example) by which browsers may reach the api, beside loopback's.
    Unset: an api that is open on loopback alone serves no other name, any other api every name."""
    agent_name: Annotated[str, Field(min_length=1, max_length=64)] = "voice-agent"
    """Name under which LiveKit dispatches to this orchestrator."""
    livekit_api_key: OptionalText = None
    """LiveKit API key. Needed when LIVEKIT_URL is set."""
    livekit_api_secret: Annotated[SecretStr | None, BeforeValidator(_empty_is_none)] = None
    """LiveKit API secret. Needed when LIVEKIT_URL is set."""
    livekit_public_url: LivekitUrl = None
    """LiveKit address given to users, where it differs from LIVEKIT_URL."""

    livekit_port: Port = 7880
    """Port of the local LiveKit server (loopback only); media uses the next one (TCP) and the one after (UDP)."""

    pool_target: Annotated[int, Field(ge=0, le=500)] = 3
    """Warm agents to keep, on all nodes together; each node keeps one at least."""
    pool_auto: bool = False
    """Size the pool by what arrives: starts per second times the measured boot time, with a margin."""
    pool_min: Annotated[int, Field(ge=0, le=500)] = 1
    """Smallest target that POOL_AUTO chooses."""
    pool_max: Annotated[int, Field(ge=0, le=500)] = 20
    """Largest target that POOL_AUTO chooses."""
    max_sessions: Annotated[int, Field(ge=1)] = 50
    """Sessions at once; a start beyond them joins the waiting line."""
    node_sessions: Annotated[int, Field(ge=0)] = 0
    """Sessions at once on this node; 0: only MAX_SESSIONS, which is of all nodes together, counts."""
    sessions_per_user: Annotated[int, Field(ge=1)] = 1
    """Live sessions that one user may have; with 1 a second start returns the first one's session."""
    queue_limit: Annotated[int, Field(ge=0)] = 100
    """Places in the waiting line; a start beyond them is answered 429."""
    queue_seconds: Seconds = 300.0
    """A session that has waited in line this long is given up."""
    memory_headroom_mb: Annotated[int, Field(ge=0)] = 256
    """Free memory (MiB, of the machine or its cgroup) below which no agent is started. 0: do not look."""
    rate_limit: Annotated[str, AfterValidator(_rate)] = "10/minute"
    """Starts per client address, as AMOUNT/PERIOD. Of IPv6 that is a /64, and its /48 may have four times as many."""
    token_rate_limit: Annotated[str, AfterValidator(_rate)] = "60/minute"  # noqa: S105
    """Tokens for fresh rooms per client address, as AMOUNT/PERIOD: each may become a call."""
    sessions_per_address: Annotated[int, Field(ge=0)] = 10
    """Live sessions, waiting ones included, that one client address may have where the api is open; four times as many
    for the /48 of an IPv6 address. 0: any number."""
    waiting_per_address: Annotated[int, Field(ge=0)] = 5
    """Those of them that may wait in line at once. 0: any number."""
    boot_timeout_seconds: Seconds = 20.0
    """An agent that is not warm this long after its spawn is stopped and counts as failed."""
    start_timeout_seconds: Seconds = 30.0
    """A session that has no agent this long after its start is an error."""
    join_timeout_seconds: Seconds = 10.0
    """An agent that is not in its room this long after it was bound is replaced."""
    user_join_seconds: Seconds = 60.0
    """A session whose user has not joined this long after an agent was bound ends."""
    user_gone_seconds: Seconds = 20.0
    """A session whose user has been out of the room this long ends; a quarter of it when the connection was lost."""
    max_session_seconds: Seconds = 1800.0
    """Longest length of a call."""
    reconcile_seconds: Seconds = 45.0
    """Seconds between two comparisons of our sessions with LiveKit's rooms; each is up to a third more or less."""
    session_keep_seconds: Seconds = 86_400.0
    """How long the record and the logs of a session are kept after its end."""
    session_keep_count: Annotated[int, Field(ge=10)] = 10_000
    """Sessions that are over and whose records are kept at most: beyond it the oldest go, with their agents' logs."""
    redis_rewrite_seconds: Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_empty_is_none)] = None
    """Seconds between two rewrites of Redis's append-only file, so that what is deleted is gone from the disk. Unset:
    1200 with the embedded Valkey, and never with a Redis of your own. 0: never."""
    takeover: bool = True
    """Replace an agent that dies in a call, in the same room."""
    max_takeovers: Annotated[int, Field(ge=0)] = 2
    """Takeovers after which the next death ends the session."""
    drain_seconds: Annotated[float, Field(ge=0)] = 30.0
    """On SIGTERM calls are kept for this long."""
    goodbye_seconds: Annotated[float, Field(ge=0)] = 5.0
    """What is left of a call at the end of the drain, for the agent to say goodbye in."""
    kill_window_seconds: Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_empty_is_none)] = None
    """Seconds between the platform's SIGTERM and its SIGKILL, where the platform does not say it itself."""
    spawn_concurrency: Annotated[int, Field(ge=1, le=256)] = 16
    """Agents that one node boots at the same time (threads of its Celery worker)."""
    heartbeat_timeout_seconds: Seconds = 8.0
    """An agent silent for this long is stopped; its call is taken over."""
    agent_memory_limit_mb: Annotated[int, Field(ge=64)] = 1024
    """Private memory (MiB) above which the health check stops an agent."""
    log_lines: Annotated[int, Field(ge=10, le=100_000)] = 500
    """Log lines kept per agent."""

    alert_webhook_url: Annotated[SecretStr | None, BeforeValidator(_empty_is_none), AfterValidator(_http)] = None
    """Where critical events are sent (Standard Webhooks). Unset: nowhere."""
    alert_webhook_secret: Annotated[SecretStr | None, BeforeValidator(_empty_is_none), AfterValidator(_signing)] = None
    """Key that signs them: `whsec_` and base64. Needed when ALERT_WEBHOOK_URL is set."""

    @property
    def policy(self) -> dict[str, int]:
        """What the Lua scripts decide by, as the hash `policy` in Redis. Times are milliseconds."""

        def ms(seconds: float) -> int:
            return int(seconds * 1000)

        return {
            "maxSessions": self.max_sessions, "perUser": self.sessions_per_user,
            "queueLimit": self.queue_limit, "queueMs": ms(self.queue_seconds),
            "bootMs": ms(self.boot_timeout_seconds), "startMs": ms(self.start_timeout_seconds),
            "joinMs": ms(self.join_timeout_seconds), "userJoinMs": ms(self.user_join_seconds),
            "userGoneMs": ms(self.user_gone_seconds), "maxMs": ms(self.max_session_seconds),
            "silentMs": ms(self.heartbeat_timeout_seconds), "stopMs": ms(self.stop_grace_seconds),
            "goodbyeMs": ms(self.goodbye_seconds), "keepSeconds": max(1, int(self.session_keep_seconds)),
            "keepCount": self.session_keep_count,
            "takeover": int(self.takeover), "maxTakeovers": self.max_takeovers,
            "reconcileMs": ms(self.reconcile_seconds),
            "webhooks": int(self.alert_webhook_url is not None),
        }  # fmt: skip

    @property
    def serves(self) -> str:
        """What the nodes that share one Redis must have in common, as JSON. The LiveKit key as its digest."""

        def digest(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()[:12]

        return json.dumps({
            "AGENT_COMMAND" if self.agent_command else "AGENT_MODULE": self.agent_command or self.agent_module,
            "AGENT_NAME": self.agent_name,
            "LIVEKIT_API_KEY": digest(self.livekit_api_key or ""),
            "limits": digest(json.dumps(self.policy)),
        })  # fmt: skip

    @property
    def agent_token_seconds(self) -> int:
        """How long an agent's room token is good: a takeover near the end of the longest call must still connect."""
        waits = self.queue_seconds + self.start_timeout_seconds + self.user_join_seconds
        return int(waits + self.max_session_seconds + 300)

    @property
    def room_empty_seconds(self) -> int:
        """How long LiveKit keeps a room to which no user has come: longer than we wait, so that we decide."""
        return int(self.user_join_seconds + self.start_timeout_seconds + 30)

    @property
    def room_departure_seconds(self) -> int:
        """How long LiveKit keeps a room that its user has left: longer than we wait, a takeover included."""
        return int(self.user_gone_seconds + self.join_timeout_seconds + 30)

    @property
    def rate(self) -> RateLimitItem:
        """`rate_limit`, parsed."""
        return parse(self.rate_limit)

    @property
    def base_url(self) -> str:
        """Where this machine reaches the api."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{bracketed(host)}:{self.port}"

    @property
    def webhook_url(self) -> str:
        """Where a LiveKit server on this machine sends its webhooks to."""
        return self.base_url + WEBHOOK_PATH

    @property
    def page_url(self) -> str:
        """Where this machine reaches the page with the Talk button."""
        return self.base_url.rpartition(":")[0] + f":{self.frontend_port or self.port}"

    @property
    def token_rate(self) -> RateLimitItem:
        """`token_rate_limit`, parsed."""
        return parse(self.token_rate_limit)

    @property
    def keys(self) -> tuple[str, ...]:
        """`api_keys`, one by one."""
        given = self.api_keys.get_secret_value() if self.api_keys else ""
        return tuple(key.strip() for key in given.split(",") if key.strip())

    @property
    def origins(self) -> tuple[str, ...]:
        """`cors_origins`, one by one."""
        return tuple(origin.strip() for origin in self.cors_origins.split(",") if origin.strip())

    @property
    def hosts(self) -> tuple[str, ...]:
        """`allowed_hosts`, one by one, in lower case."""
        return tuple(host.strip().lower() for host in self.allowed_hosts.split(",") if host.strip())

    @property
    def loopback(self) -> bool:
        """Whether the api can be reached from this machine alone."""
        return self.host == "localhost" or (_is_address(self.host) and ipaddress.ip_address(self.host).is_loopback)

    @property
    def access_trouble(self) -> str | None:
        """Why anybody could start calls though nobody has said so, and what to set; None when they could not."""
        if self.keys or self.loopback or self.open_access:
            return None
        return (
            f"HOST={self.host} without API_KEYS would let anybody start calls: set API_KEYS "
            "(openssl rand -hex 24), or OPEN_ACCESS=true if that is meant"
        )

    @model_validator(mode="after")
    def _one_authority(self) -> Self:
        try:
            _ = self.redis_url and self.redis
        except ValueError as failure:  # of REDIS_URL and REDIS_CA_FILE together
            raise ValueError(f"REDIS_URL: {failure}") from None
        return self

    @model_validator(mode="after")
    def _access_is_meant(self) -> Self:
        if any(len(key) < SHORTEST_KEY for key in self.keys):
            raise ValueError(
                f"API_KEYS holds a key of less than {SHORTEST_KEY} characters; make one with: openssl rand -hex 24"
            )
        if self.admin_token is not None and len(self.admin_token.get_secret_value()) < SHORTEST_KEY:
            raise ValueError(
                f"ADMIN_TOKEN has less than {SHORTEST_KEY} characters; make one with: openssl rand -hex 24"
            )
        # Of the programs of a node only the api has API_KEYS, and looks itself.
        if CHECKED not in os.environ and self.access_trouble:
            raise ValueError(self.access_trouble)
        return self

    @model_validator(mode="after")
    def _heartbeats_fit(self) -> Self:
        if self.heartbeat_timeout_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                f"HEARTBEAT_TIMEOUT_SECONDS={self.heartbeat_timeout_seconds:g} is less than two of "
                f"HEARTBEAT_SECONDS={self.heartbeat_seconds:g}: a late heartbeat would cost a healthy agent"
            )
        return self

    @model_validator(mode="after")
    def _alerts_are_signed(self) -> Self:
        if self.alert_webhook_url is not None and self.alert_webhook_secret is None:
            raise ValueError(
                "ALERT_WEBHOOK_URL is set and ALERT_WEBHOOK_SECRET is not: nobody could tell that a message is ours "
                "(echo whsec_$(openssl rand -base64 32))"
            )
        return self

    @classmethod
    def load(cls) -> Self:
        """Read the settings.

        Raises:
            Preflight: a value cannot be used; the message names the variable, the value and the mend.
        """
        return load(cls)


def load(kind: type[S]) -> S:
    """Read settings of one kind. Raises `Preflight` with one line that names the first bad variable."""
    try:
        if CHECKED in os.environ:  # what stands in the file is in the environment of the programs that need it
            return kind(_env_file=None)
        return kind()
    except ValidationError as failure:
        first = failure.errors(include_url=False)[0]
        if not first["loc"]:
            raise Preflight(f"{first['ctx']['error']}. Correct it in the environment or in .env.") from None
        name = str(first["loc"][0]).upper()
        hidden = {"TOKEN", "SECRET", "KEYS", "REDIS", "WEBHOOK"} & set(name.split("_")) or "@" in str(first["input"])
        shown = "" if hidden else f"={first['input']!r}"
        told = first["msg"].removeprefix("Value error, ")
        raise Preflight(f"{name}{shown}: {told}. Correct it in the environment or in .env.") from None
    except (OSError, UnicodeDecodeError) as failure:
        raise Preflight(f".env cannot be read: {failure}. Correct the file or remove it.") from None
