"""The Railway template and `.railway/railway.py`: the same project, with variables that a node accepts unchanged."""

import importlib.util
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.operations import kill_window
from orchestrator.settings import Settings
from tests.unit.test_settings import PROVIDERS

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATE = json.loads((REPOSITORY / "deploy/railway/template.json").read_text())["services"]
VARIABLES: dict[str, dict[str, Any]] = TEMPLATE["Orchestrator"]["variables"]
#: Railway's own variables, which configure its services.
RAILWAYS = {
    "RAILWAY_DOCKERFILE_PATH",
    "RAILWAY_HEALTHCHECK_TIMEOUT_SEC",
    "RAILWAY_DEPLOYMENT_DRAINING_SECONDS",
    "RAILWAY_DEPLOYMENT_OVERLAP_SECONDS",
}
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|KEYS?$")
NUMBERS = ("healthcheckTimeout", "drainingSeconds", "overlapSeconds", "restartPolicyMaxRetries")


def compiled() -> dict[str, dict[str, Any]]:
    """Return the resources that `railway config plan` compares with the project, by name."""
    spec = importlib.util.spec_from_file_location("railway_project", REPOSITORY / ".railway/railway.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    graph = module.main().to_graph()
    json.dumps(graph, allow_nan=False)  # read like Railway's command line reads it
    return {resource["name"]: resource for resource in graph["resources"]}


@pytest.fixture(scope="module")
def graph() -> dict[str, dict[str, Any]]:
    return compiled()


def deployed(variables: Mapping[str, Mapping[str, Any]], **filled: str) -> dict[str, str]:
    """Return the environment of a deployed service whose user has filled in these variables."""

    def generated(found: re.Match[str]) -> str:
        length, alphabet = re.fullmatch(r'secret\((\d+)(?:, "(.+)")?\)', found[1]).groups()  # type: ignore[union-attr]
        return "".join(secrets.choice(alphabet or "0123456789abcdef") for _ in range(int(length)))

    values = {name: str(variable["defaultValue"]) for name, variable in variables.items() if "defaultValue" in variable}
    values = {name: re.sub(r"\$\{\{(secret\(.*?\))\}\}", generated, value) for name, value in values.items()} | filled
    assert not [name for name, value in values.items() if "${{" in value], "a reference that the test does not support"
    return values


def settings_of(environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings.load()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a node that was deployed by the template, with the required variables filled in."""
    asked = {
        name: "wss://livekit.example" if name.endswith("URL") else "given"
        for name, variable in VARIABLES.items()
        if not variable["isOptional"] and "defaultValue" not in variable
    }
    assert set(asked) == {"LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"}
    environment = deployed(VARIABLES, REDIS_URL="redis://default:x@redis.railway.internal:6379/0", **asked)
    return settings_of(environment, tmp_path, monkeypatch)


def test_a_node_reads_every_variable() -> None:
    assert set(VARIABLES) - RAILWAYS - PROVIDERS <= {name.upper() for name in Settings.model_fields}
    assert all(
        len(variable["description"]) > 10 for service in TEMPLATE.values() for variable in service["variables"].values()
    )


def test_no_secret_has_a_literal_value() -> None:
    for service in TEMPLATE.values():
        for name, variable in service["variables"].items():
            if SECRET.search(name) and "defaultValue" in variable:
                assert "${{secret(" in variable["defaultValue"], name


def test_a_service_deployed_with_one_click_starts(node: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert node.log_format == "json"
    assert node.trusted_proxy == "railway"
    assert not node.loopback
    assert not node.open_access
    (key,) = node.keys
    assert node.admin_token
    assert len({key, node.admin_token.get_secret_value()}) == 2
    assert node.redis_url == "redis://default:x@redis.railway.internal:6379/0"
    # The generated secret for alerts is valid, so only the address must be set.
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "https://alerts.example")
    assert Settings.load().alert_webhook_secret


def test_the_domain_routes_to_the_port_of_the_api(node: Settings) -> None:
    networking = TEMPLATE["Orchestrator"]["networking"]
    assert networking == {"serviceDomains": {f"<hasDomain>:{node.port}": {"port": node.port}}}


def test_a_drain_fits_into_railways_draining_seconds(node: Settings) -> None:
    environ = {name: VARIABLES[name]["defaultValue"] for name in RAILWAYS}
    window = kill_window.window(node, environ)
    assert window
    assert kill_window.drain_limit(node) + kill_window.stopping(node) <= window
    assert kill_window.warning(node, environ) is None


def test_the_project_matches_the_template(graph: dict[str, dict[str, Any]]) -> None:
    assert set(graph) == {"Redis", "redis-data", "Orchestrator"}
    for name, service in TEMPLATE.items():
        variables, ours = service["variables"], graph[name]["variables"]
        assert set(ours) == set(variables)
        for variable, value in ours.items():
            default = variables[variable].get("defaultValue", "")
            if value["type"] == "preserve":
                assert not default or "${{secret(" in default, variable
            elif value["type"] == "reference":
                resource = value["resource"].removeprefix("service.")
                assert default == f"${{{{{resource}.{value['output']}}}}}"
            else:
                assert value == {"type": "literal", "value": default}
        assert service["deploy"].items() <= graph[name]["deploy"].items()
    assert graph["Redis"]["source"] == {"type": "image"} | TEMPLATE["Redis"]["source"]
    (attached,) = graph["Redis"]["volumeAttachments"].values()
    assert attached["volume"] == graph["redis-data"]["address"]
    assert {"mountPath": attached["mountPath"]} in TEMPLATE["Redis"]["volumeMounts"].values()


def test_the_project_defines_its_build_and_deploy(graph: dict[str, dict[str, Any]]) -> None:
    build, deploy = graph["Orchestrator"]["build"], graph["Orchestrator"]["deploy"]
    assert build == {"builder": "DOCKERFILE", "dockerfilePath": "Dockerfile.orchestrator"}
    assert deploy["healthcheckPath"] == "/readyz"
    assert deploy["restartPolicyType"] == "ON_FAILURE"
    assert deploy["sleepApplication"] is False
    # Railway ignores a string where a number is expected.
    assert {name: type(deploy[name]) for name in NUMBERS} == dict.fromkeys(NUMBERS, int)
    said = {name: VARIABLES[name]["defaultValue"] for name in RAILWAYS}
    assert said == {
        "RAILWAY_DOCKERFILE_PATH": build["dockerfilePath"],
        "RAILWAY_HEALTHCHECK_TIMEOUT_SEC": str(deploy["healthcheckTimeout"]),
        "RAILWAY_DEPLOYMENT_DRAINING_SECONDS": str(deploy["drainingSeconds"]),
        "RAILWAY_DEPLOYMENT_OVERLAP_SECONDS": str(deploy["overlapSeconds"]),
    }
    assert type(graph["Redis"]["deploy"]["drainingSeconds"]) is int


def test_no_railway_json_or_toml_exists() -> None:
    """Railway refuses `.railway/railway.py` for a service with such a file, and new services do not read one."""
    assert not [name for name in ("railway.json", "railway.toml") if (REPOSITORY / name).exists()]
