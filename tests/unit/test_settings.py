"""Settings: each is documented, and refused in one line that names the variable and the fix."""

import os
import re
import socket
from pathlib import Path

import pytest
from dotenv import dotenv_values

from orchestrator.errors import Preflight
from orchestrator.settings import NodeSettings, Settings, load

EXAMPLE = Path(__file__).resolve().parents[2] / ".env.celery.example"
#: Settings that the agents read themselves.
PROVIDERS = {f"{name}_API_KEY" for name in ("OPENAI", "DEEPGRAM", "CARTESIA", "ELEVEN", "ANTHROPIC", "GOOGLE")}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # without the developer's .env


def test_the_example_documents_exactly_the_settings() -> None:
    documented = set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", EXAMPLE.read_text(), re.MULTILINE))
    assert documented - PROVIDERS == {name.upper() for name in Settings.model_fields}


def test_the_example_shows_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = Settings()
    for name, value in dotenv_values(EXAMPLE).items():
        monkeypatch.setenv(name, value or "")
    assert Settings() == defaults


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PORT=9001\nPOOL_TARGET=7\nUNKNOWN=x\n")
    monkeypatch.setenv("PORT", "9002")
    settings = Settings.load()
    assert (settings.port, settings.pool_target) == (9002, 7)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("POOL_TARGET", "many", "POOL_TARGET='many'"),
        ("PORT", "70000", "PORT='70000'"),
        ("RATE_LIMIT", "often", "10/minute"),
        ("REDIS_URL", "redis://:ab/cd@host:6379", "REDIS_URL: its port cannot be read: in a password write / as %2F"),
        ("AGENT_START_METHOD", "clone", "AGENT_START_METHOD"),
        ("ROOT_PATH", "voice", "ROOT_PATH='voice': write the path alone, with one slash before it"),
        ("ROOT_PATH", "https://calls.example/voice", "without scheme and host"),
        ("ROOT_PATH", "//evil.example", "with one slash before it"),
        ("ROOT_PATH", " /voice", "with one slash before it"),
        ("ROOT_PATH", "/", "leave it empty for /"),
        ("ROOT_PATH", "/voice/", "without the slash at its end: /voice"),
        ("ROOT_PATH", "/voice//v1", "between single slashes"),
        ("ROOT_PATH", "/voice/../admin", "no part of it may be . or .."),
        ("ROOT_PATH", "/.", "no part of it may be . or .."),
        ("ROOT_PATH", "/my voice", "letters, digits and . _ ~ -"),
        ("ROOT_PATH", '/"><script>', "letters, digits and . _ ~ -"),
        ("ROOT_PATH", "/%2e%2e", "letters, digits and . _ ~ -"),
        ("ROOT_PATH", "/voice?a=b", "letters, digits and . _ ~ -"),
        ("ROOT_PATH", "/voice\n", "letters, digits and . _ ~ -"),
        ("ROOT_PATH", "/stimme-ü", "letters, digits and . _ ~ -"),
        ("ROOT_PATH", "/" + "v" * 200, "at most 200 letters"),
        ("ROOT_PATH", "/api", "the api itself has /api/agents: take another path"),
        ("ROOT_PATH", "/status", "the api itself has /status"),
        ("ROOT_PATH", "/api/session/voice", "the api itself has /api/session"),
        ("HEARTBEAT_SECONDS", "0", "HEARTBEAT_SECONDS"),
        ("HEARTBEAT_TIMEOUT_SECONDS", "3", "HEARTBEAT_TIMEOUT_SECONDS=3 is less than two of HEARTBEAT_SECONDS=2"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Preflight, match=re.escape(told)) as failure:
        Settings.load()
    assert "\n" not in failure.value.detail
    assert "in the environment or in .env" in failure.value.detail


@pytest.mark.parametrize("path", ["", "/voice", "/a/b.c/_d~-", "/api/voice", "/statuses", "/v1"])
def test_a_valid_root_path_is_accepted(path: str) -> None:
    assert Settings(root_path=path).root_path == path


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"PORT=\xff\xfe")
    with pytest.raises(Preflight, match=r"\.env cannot be read"):
        Settings.load()


def test_the_host_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADMIN_TOKEN", "LIVEKIT_API_SECRET"):
        monkeypatch.setenv(name, "canary-of-16-and-more")
    assert "canary-of-16-and-more" not in repr(load(NodeSettings))
    assert "canary-of-16-and-more" not in repr(Settings())
    assert os.environ["ADMIN_TOKEN"] == "canary-of-16-and-more"


def test_the_rate_is_parsed() -> None:
    rate = Settings(rate_limit="200/hour").rate
    assert (rate.amount, rate.get_expiry()) == (200, 3600)


def test_two_containers_of_one_railway_service_are_two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(deployment: str, replica: str) -> str:
        monkeypatch.setenv("RAILWAY_DEPLOYMENT_ID", deployment)
        monkeypatch.setenv("RAILWAY_REPLICA_ID", replica)
        return Settings().node_id

    # From the same day, as UUIDs of version 7 begin with the time; the replica may belong to another deployment.
    old, new = "01993c8e-71b2-7d40-b2a1-0c6c2f9d5e11", "01993c8e-71b2-7d40-b2a1-0c6c3a77e2b9"
    replica = "3f0c9f5e-5a0e-4c39-9c7e-7d1b7f6a2d42"
    names = {name(old, replica), name(new, replica), name(new, replica[:-1] + "3")}
    assert len(names) == 3
    assert all(re.fullmatch(r"railway-[A-Za-z0-9_-]{1,32}", found) for found in names)
    assert name(old, replica) == name(old, replica), "the node id is the same after a restart"
    assert name("", replica) == "railway-7f6a2d42"
    monkeypatch.setenv("NODE_ID", "mine")
    assert name(old, replica) == "mine"


def test_the_default_node_id_is_the_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("NODE_ID", "RAILWAY_DEPLOYMENT_ID", "RAILWAY_REPLICA_ID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "voice.example")
    assert Settings().node_id == "voice-example"
