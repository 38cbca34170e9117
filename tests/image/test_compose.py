"""The compose file: valid, open to this machine alone, patient enough; and brought up, with a user who presses Talk."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.operations import kill_window
from orchestrator.settings import Settings
from tests.image.engine import IMAGE, Checks, Engine
from tests.support.browser import Browser, chromium, spoken
from tests.support.node import REPOSITORY
from tests.support.processes import free_ports, poll

BIN = Path(sys.executable).parent
FILE = REPOSITORY / "docker-compose.celery.yml"
EXAMPLE = REPOSITORY / ".env.celery.example"


def _config(env_file: Path) -> dict[str, Any]:
    command = [str(BIN / "docker-compose"), "--env-file", str(env_file), "-f", str(FILE)]
    done = subprocess.run(
        [*command, "--profile", "observability", "config", "--format", "json"],
        capture_output=True, text=True, timeout=60, check=False, env={"PATH": os.environ["PATH"], "HOME": "/"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


@pytest.mark.parametrize("env_file", [Path(os.devnull), EXAMPLE], ids=["no .env", "the example"])
def test_the_compose_file_is_valid_and_publishes_ports_on_loopback_only(env_file: Path) -> None:
    services = _config(env_file)
    assert set(services) == {"secrets", "valkey", "livekit", "orchestrator", "prometheus", "grafana", "flower"}
    for name, service in services.items():
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}, name
        assert service["restart"] == ("no" if name == "secrets" else "unless-stopped")
        assert service["image"] == "voice-agent-orchestrator" or ":latest" not in service["image"]
        assert ":" in service["image"] or service["image"] == "voice-agent-orchestrator", "a tag"
    node = services["orchestrator"]
    assert {"3000", "8080"} == {port["published"] for port in node["ports"]}
    assert {name: how["condition"] for name, how in node["depends_on"].items()} == {
        "secrets": "service_completed_successfully", "valkey": "service_healthy", "livekit": "service_healthy",
    }  # fmt: skip
    assert node["environment"]["OPEN_ACCESS"] == "true"


def test_a_drain_fits_into_the_stop_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    node = _config(Path(os.devnull))["orchestrator"]
    for name, value in node["environment"].items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert node["stop_grace_period"] == "1m0s"
    assert settings.kill_window_seconds == 60
    assert kill_window.warning(settings, {}) is None


def test_a_browser_call_works_on_the_compose_services(image: Engine, tmp_path: Path) -> None:
    chromium()
    image.build_servers()
    image("tag", IMAGE, "localhost/voice-agent-orchestrator:latest")
    override, ports = _on_host_network(tmp_path)
    command = [str(BIN / "podman-compose"), "--project-name", "vao-test", "-f", str(FILE), "-f", str(override)]

    def compose(*arguments: str, seconds: float = 180) -> None:
        done = subprocess.run(
            [*command, *arguments], env=image.environment, cwd=tmp_path, capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    with Checks(image):
        try:
            compose("up", "--detach", "--no-build")
            poll(lambda: "Ctrl-C stops everything." in _logs(image), "the node is up", 120, every=0.5)
            with Browser(microphone=spoken(tmp_path, "what time is it")) as browser:
                browser.page.goto(f"http://localhost:{ports['page']}")
                browser.page.get_by_role("button", name="Talk").click()
                poll(lambda: browser.heard() > 0, "the agent is heard", 60, every=0.2)
                poll(
                    lambda: re.search("It is .+ in the ", browser.page.inner_text("body")),
                    "the agent answers",
                    60,
                    every=0.2,
                )
                assert browser.errors == []
        finally:
            compose("down", "--volumes", "--timeout", "40")
    assert image("ps", "--all", "--quiet").stdout == ""


def _logs(image: Engine) -> str:
    names = image("ps", "--all", "--format", "{{.Names}}").stdout.split()
    name = next((name for name in names if "orchestrator" in name), None)
    if name is None:
        return ""
    done = image("logs", name)
    return done.stdout + done.stderr


def _on_host_network(folder: Path) -> tuple[Path, dict[str, int]]:
    """Write what is different where containers have the machine's network: ports that are free, and no names."""
    media, valkey, api, page = free_ports(3), free_ports(), free_ports(), free_ports()
    livekit = f"ws://127.0.0.1:{media}"
    given = yaml.safe_load(FILE.read_text())["services"]
    config = given["livekit"]["environment"]["LIVEKIT_CONFIG"]
    for old, new in {"7880": media, "7881": media + 1, "7882": media + 2}.items():
        config = config.replace(old, str(new))
    config = config.replace("http://orchestrator:8080", f"http://127.0.0.1:{api}")
    config = config.replace("rtc: {", "rtc: {enable_loopback_candidate: true, ")
    host = {"network_mode": "host"}
    command = [*given["valkey"]["command"], "--port", str(valkey), "--bind", "127.0.0.1"]
    services = {
        "secrets": host,
        "valkey": host | {"command": command, "environment": {"VALKEY_PORT": str(valkey)}},
        "livekit": host | {
            "environment": {"LIVEKIT_CONFIG": config},
            "healthcheck": {"test": ["CMD", "wget", "-q", "-O", "/dev/null", f"http://127.0.0.1:{media}"]},
        },
        "orchestrator": host | {
            "environment": {
                "HOST": "127.0.0.1", "PORT": str(api), "FRONTEND_PORT": str(page), "LIVEKIT_URL": livekit,
                "LIVEKIT_PUBLIC_URL": livekit, "REDIS_URL": f"redis://127.0.0.1:{valkey}/0",
            },
        },
    }  # fmt: skip
    path = folder / "host.yml"
    path.write_text(yaml.safe_dump({"services": services}))
    return path, {"page": page}
