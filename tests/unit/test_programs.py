"""The secrets of each program of a node: the table, and the environments that are made from it."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.api.app import create
from orchestrator.errors import Preflight
from orchestrator.node import programs
from orchestrator.node.configuration import Options
from orchestrator.node.preflight import CONFIGURATION
from orchestrator.settings import CHECKED, NodeSettings, Settings
from tests.support.api import serve

#: Variables that only agents may have, or no program.
STRANGE = {
    "OPENAI_API_KEY": "canary-openai", "OWN": "canary-own", "UNLISTED": "canary-unlisted", "RAILWAY_TOKEN": "canary-r",
    "AWS_SECRET_ACCESS_KEY": "canary-aws", "LIVEKIT_KEYS": "canary-k", "KUBERNETES_AUTH": "canary-kube",
}  # fmt: skip
HARMLESS = {
    "PATH": "/bin",
    "POOL_TARGET": "7",
    "pool_max": "8",
    "LC_ALL": "C",
    "RAILWAY_REPLICA_ID": "r",
    "HOST": "::1",
}
PROXY = {"HTTPS_PROXY": "http://canary-proxy@p:1", "http_proxy": "http://canary-lower@p:1"}


def _sections() -> dict[str, str]:
    """Return the command of each program of supervisord.conf."""
    parser = configparser.RawConfigParser()
    parser.read(CONFIGURATION)
    found = [name for name in parser.sections() if name.startswith("program:")]
    return {name.removeprefix("program:"): parser[name]["command"] for name in found}


@pytest.fixture
def everything() -> dict[str, str]:
    """Every secret, in upper and lower case, and other variables of an environment."""
    secrets = {name: f"canary-{name}" for name in programs.SECRETS}
    in_lower_case = {name.lower(): f"canary-{name}-lower" for name in programs.SECRETS}
    return secrets | in_lower_case | STRANGE | HARMLESS | PROXY


def test_the_table_has_every_program_and_every_secret() -> None:
    assert set(programs.NEEDS) == {*_sections(), "announce"}
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in repr(field.annotation)}
    assert {name.upper() for name in secret} < programs.SECRETS
    assert {"REDIS_URL", "LIVEKIT_API_KEY", "ADMIN_TOKEN"} < programs.SECRETS
    assert set().union(*programs.NEEDS.values()) - programs.PROXIES == programs.SECRETS, "an unused secret"
    assert Settings.model_fields["admin_token"].annotation == SecretStr | None


@pytest.mark.parametrize("program", programs.NEEDS)
def test_a_program_gets_only_its_own_secrets(program: str, everything: dict[str, str]) -> None:
    settings = NodeSettings(agent_env=" OWN, ADMIN_TOKEN,admin_token , LIVEKIT_API_SECRET,API_KEYS,UNSET,")
    seen = programs.environment_of(program, everything, settings)
    agents = {"OPENAI_API_KEY", "OWN", "HTTPS_PROXY"} if program == "host" else set()
    wanted = (set(programs.NEEDS[program]) | agents) & everything.keys()
    assert {name for name, value in seen.items() if "canary" in value} == wanted
    assert HARMLESS.items() <= seen.items()


@pytest.mark.parametrize("program", _sections())
def test_a_program_with_secrets_withheld_from_agents_is_sealed(program: str) -> None:
    sealed = " -m orchestrator.machine.sealed " in _sections()[program]
    assert sealed == (program not in {"valkey", "livekit", "host"}), "not Python, or with forked agents"
    assert sealed or not programs.NEEDS[program] - {"REDIS_URL"}


def test_secrets_reach_programs_and_not_supervisords_environment(
    everything: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything |= {"ADMIN_TOKEN": 'canary: "quoted", %(ENV_X)s \udcff,\n語'}
    settings = NodeSettings(agent_env="OWN")
    handed = programs.hand_over(everything, settings)
    assert "canary" not in repr(handed)
    monkeypatch.setenv(programs.HANDED, handed[programs.HANDED])
    received = programs.received()
    assert received == {name: programs.secrets_of(name, everything, settings) for name in programs.NEEDS}
    assert programs.received() == {}, "once"
    monkeypatch.setattr(Options, "secrets", received)
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    (tmp_path / "logs").mkdir()
    for name in set(re.findall(r"%\(ENV_(\w+)\)s", CONFIGURATION.read_text())) - {"RUN_DIR"}:
        monkeypatch.setenv(name, "7" if name.endswith(("SECONDS", "CONCURRENCY")) else "true")
    options = Options()
    options.realize(["-c", str(CONFIGURATION)])
    # Twice, because `supervisorctl update` reads them again.
    for _ in range(2):
        found = {each.name: each for group in options.process_group_configs for each in group.process_configs}
        assert {name: each.environment for name, each in found.items()} == {
            name: received[name] for name in _sections()
        }
        options.process_config(do_usage=False)


def test_a_program_of_a_node_reads_no_dot_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has every secret; `up` has put each program's secrets into its environment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("ADMIN_TOKEN=canary-of-16-and-more\nPORT=9001\n")
    assert Settings.load().admin_token
    monkeypatch.setenv(CHECKED, "1")
    settings = Settings.load()
    assert settings.admin_token is None
    assert settings.port == 8080


@pytest.mark.thorough
def test_a_command_always_reads_dot_env(tmp_path: Path) -> None:
    """In an agent, for example: a command must not use the environment of a node's program."""
    (tmp_path / ".env").write_text("PORT=many\n")
    environment = {"PATH": os.environ["PATH"], CHECKED: "1", "PYTHONPATH": str(CONFIGURATION.parent)}
    command = [str(Path(sys.executable).parent / "orchestrator"), "status"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "PORT='many'" in done.stderr


async def test_programs_without_the_keys_start_and_the_api_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` has checked that all settings fit together; the API still refuses to open by mistake."""
    monkeypatch.setenv("HOST", "0.0.0.0")
    with pytest.raises(Preflight, match="set API_KEYS"):
        Settings.load()
    monkeypatch.setenv(CHECKED, "1")
    for name in ("ADMIN_TOKEN", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"):
        monkeypatch.setenv(name, "canary-of-32-characters-and-more-than-that")
    monkeypatch.setenv("LIVEKIT_URL", "ws://127.0.0.1:1")
    settings = Settings.load()
    with pytest.raises(Preflight, match="set API_KEYS"):
        async with serve(create(settings)):
            pass
