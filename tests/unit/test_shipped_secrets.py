"""No secret is shipped: none is in a published file, and Compose generates its own."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE = REPOSITORY / "docker-compose.celery.yml"
#: Folders that are not shipped: installed, built or written at runtime, or tests.
_NOT_SHIPPED = {
    ".git", ".venv", ".venv-pipecat", ".run", "node_modules", "dist", "tests", "build", ".screenshots", ".hypothesis",
}  # fmt: skip
_CACHES = re.compile(r"__pycache__|\..*_cache|.*\.egg-info")
#: Matches the default of a variable whose name marks a secret; the name of a LiveKit key is not secret.
_DEFAULT = re.compile(r"\$\{(\w*(?:SECRET|TOKEN|PASSWORD|API_KEYS)\w*):?-([^}]+)\}")
#: Matches assignments in YAML, JSON, shell or Python whose value is neither empty nor a reference.
_ASSIGNED = re.compile(
    r"""\b((?:[A-Z0-9]+_)*(?:SECRET|TOKEN|PASSWORD|API_KEYS))["']?\s*[:=]\s*["']?([A-Za-z0-9+/_-]{6,})["']?\s*(?:$|[,}#])""",
    re.MULTILINE,
)
_KNOWN = re.compile(
    r"\bdevkey\b|secretsecret|for-trying-on-one-machine|\bAPI_SECRET=secret\b|changeme|hunter2", re.IGNORECASE
)


def shipped() -> list[Path]:
    found = []
    for folder, folders, files in os.walk(REPOSITORY):
        folders[:] = [name for name in folders if name not in _NOT_SHIPPED and not _CACHES.fullmatch(name)]
        found += [Path(folder, name) for name in files]
    return found


def test_no_shipped_file_contains_a_secret() -> None:
    looked = 0
    for path in shipped():
        if path.name == ".env":
            continue  # the developer's own file
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a picture, not text
        looked += 1
        name = str(path.relative_to(REPOSITORY))
        assert not _DEFAULT.findall(text), f"{name} has a secret by default"
        assert not _KNOWN.findall(text), f"{name} has a published secret"
        assert not _ASSIGNED.findall(text), f"{name} has a secret in it"
    assert looked > 200


@pytest.mark.parametrize(
    "text",
    ["keys: ${LIVEKIT_API_SECRET:-for-trying}", "${ADMIN_TOKEN-x}", "REDIS_PASSWORD: hunter22", 'A_TOKEN="abcdefgh"',
     "LIVEKIT_API_SECRET=secretsecret", "- devkey"],
)  # fmt: skip
def test_the_patterns_match_examples_of_secrets(text: str) -> None:
    assert _DEFAULT.findall(text) or _ASSIGNED.findall(text) or _KNOWN.findall(text)


def _compose() -> Any:
    return yaml.safe_load(COMPOSE.read_text())


def _make(folder: Path, key: str = "orchestrator", secret: str = "") -> tuple[str, dict[str, str]]:
    """Run the script for Compose's secrets, as its container does; returns the secret and LiveKit's keys."""
    service = _compose()["services"]["secrets"]
    (script,) = service["command"]
    script = script.replace("$$", "$").replace("cd /secrets", f"cd '{folder}'")
    if os.geteuid() != 0:
        script = script.replace("chown", ": chown")
    subprocess.run(
        [*service["entrypoint"], script],
        env={"PATH": os.environ["PATH"], "LIVEKIT_API_KEY": key, "LIVEKIT_API_SECRET": secret}, check=True, timeout=30,
    )  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {"livekit_api_secret", "livekit_keys.yaml"}
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return (folder / "livekit_api_secret").read_text(), yaml.safe_load((folder / "livekit_keys.yaml").read_text())


@pytest.mark.thorough
def test_compose_generates_its_secret_once_and_uses_a_given_one(tmp_path: Path) -> None:
    first, keys = _make(tmp_path)
    assert len(first) >= 40
    assert keys == {"orchestrator": first}
    assert _make(tmp_path) == (first, keys), "an existing secret is kept"
    other = tmp_path / "other"
    other.mkdir()
    assert _make(other)[0] != first
    given = "gi\"ven\\'$HOME %s `id` of 32 characters: or more"
    assert _make(other, "mine", given) == (given, {"mine": given})
    assert _make(other, "mine") == (given, {"mine": given})


def test_compose_mounts_the_secret_only_in_services_that_need_it() -> None:
    services = _compose()["services"]
    mounted = {
        name for name, service in services.items() if any("/secrets" in text for text in service.get("volumes", []))
    }
    assert mounted == {"secrets", "livekit", "orchestrator"}
    for name in mounted - {"secrets"}:
        assert "secrets:/secrets:ro" in services[name]["volumes"]
        assert services[name]["depends_on"]["secrets"] == {"condition": "service_completed_successfully"}
    assert services["livekit"]["command"] == ["--key-file", "/secrets/livekit_keys.yaml"]
    assert "keys:" not in services["livekit"]["environment"]["LIVEKIT_CONFIG"]
    node = services["orchestrator"]
    assert "LIVEKIT_API_SECRET" not in node["environment"], "it would be empty, and an empty value counts as given"
    assert node["environment"]["ALLOWED_HOSTS"] == "orchestrator,${ALLOWED_HOSTS:-}"
    (command,) = node["command"]
    assert command.endswith("exec orchestrator up")


@pytest.mark.thorough
def test_the_orchestrator_of_compose_starts_with_the_secret(tmp_path: Path) -> None:
    secret, _ = _make(tmp_path, secret='a "secret" $HOME')
    (tmp_path / "orchestrator").write_text('#!/bin/sh\necho "$1 $LIVEKIT_API_SECRET"\n')
    (tmp_path / "orchestrator").chmod(0o755)
    node = _compose()["services"]["orchestrator"]
    (command,) = (text.replace("$$", "$").replace("/secrets/", f"{tmp_path}/") for text in node["command"])
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LIVEKIT_API_SECRET": ""}
    done = subprocess.run(
        [*node["entrypoint"], command], env=environment, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == f"up {secret}\n"
