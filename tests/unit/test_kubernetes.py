"""The manifests for Kubernetes: errors that the API server would refuse, and errors that it cannot detect."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from orchestrator.errors import Preflight
from orchestrator.operations import kill_window, metrics
from orchestrator.settings import Settings
from tests.unit.test_settings import PROVIDERS

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "deploy/kubernetes"
#: The oldest version with the features of the manifests, and the newest that the validator supports.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
#: Settings that only the pods have.
OWN = {"VALKEY_PASSWORD"}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


RESOURCES = {
    (found["kind"], found["metadata"]["name"]): found
    for name in KUSTOMIZATION["resources"]
    for found in documents(name)
}
SECRET = documents("secret.example.yaml")[0]
CONFIG = RESOURCES["ConfigMap", "orchestrator"]["data"]
DEPLOYMENT = RESOURCES["Deployment", "orchestrator"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
CONTAINER = POD["containers"][0]
AUTOSCALER = RESOURCES["HorizontalPodAutoscaler", "orchestrator"]["spec"]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a node in a pod."""
    monkeypatch.chdir(tmp_path)
    given = {
        name: "wss://livekit.example" if name.endswith("URL") else f"{name}-made-by-openssl"
        for name in SECRET["stringData"]
    }
    for name, value in (CONFIG | given).items():
        monkeypatch.setenv(name, value)
    for variable in CONTAINER["env"]:
        if "value" in variable:
            filled = re.sub(r"\$\((\w+)\)", lambda found: given[found[1]], variable["value"])
            monkeypatch.setenv(variable["name"], filled)
    return Settings.load()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "resource", [*RESOURCES.values(), SECRET], ids=lambda found: f"{found['kind']}/{found['metadata']['name']}"
)
def test_the_schema_accepts_every_manifest(resource: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(resource, version, strict=True)


def test_the_schema_refuses_what_is_misspelt() -> None:
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriodSecond'"):
        kubernetes_validate.validate(
            RESOURCES["Deployment", "orchestrator"]
            | {"spec": DEPLOYMENT | {"template": {"spec": POD | {"terminationGracePeriodSecond": 60}}}},
            VERSIONS[-1],
            strict=True,
        )


def test_a_node_reads_every_variable() -> None:
    names = {*CONFIG, *SECRET["stringData"], *(variable["name"] for variable in CONTAINER["env"])}
    known = {name.upper() for name in Settings.model_fields} | PROVIDERS | OWN
    assert names - known <= {"NODE_SESSIONS"}  # see test_a_pod_is_added_before_the_nodes_are_full
    sources = [source.popitem()[1]["name"] for source in map(dict, CONTAINER["envFrom"])]
    assert sources == [RESOURCES["ConfigMap", "orchestrator"]["metadata"]["name"], SECRET["metadata"]["name"]]


def test_no_manifest_contains_a_secret() -> None:
    assert set(SECRET["stringData"].values()) == {""}
    assert not [name for name in CONFIG if re.search(r"TOKEN|SECRET|PASSWORD|KEY|REDIS|LIVEKIT_URL", name)]
    assert "Secret" not in {kind for kind, _ in RESOURCES}


def test_a_pod_without_its_secrets_refuses_to_start(node: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not node.loopback
    assert node.keys
    assert node.redis_url == "redis://:VALKEY_PASSWORD-made-by-openssl@valkey:6379/0"
    monkeypatch.setenv("API_KEYS", "")
    with pytest.raises(Preflight, match="set API_KEYS"):
        Settings.load()


def test_a_pod_has_time_for_its_drain(node: Settings) -> None:
    grace, before = POD["terminationGracePeriodSeconds"], CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = kill_window.drain_limit(node) + kill_window.stopping(node)
    assert node.kill_window_seconds is not None
    assert needed <= node.kill_window_seconds <= grace - before
    assert kill_window.warning(node, {}) is None


def test_the_ports_match_the_node(node: Settings) -> None:
    (port,) = CONTAINER["ports"]
    assert (port["containerPort"], node.frontend_port) == (node.port, 0)
    probes = {CONTAINER[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"/livez", "/readyz"}
    assert {CONTAINER[probe]["httpGet"]["port"] for probe in CONTAINER if probe.endswith("Probe")} == {port["name"]}
    service = RESOURCES["Service", "orchestrator"]["spec"]
    assert service["ports"][0]["targetPort"] == port["name"]
    valkey = RESOURCES["StatefulSet", "valkey"]["spec"]["template"]["spec"]["containers"][0]["ports"][0]
    assert f"@{RESOURCES['Service', 'valkey']['metadata']['name']}:{valkey['containerPort']}/" in str(node.redis_url)


def test_every_selector_matches_the_pods() -> None:
    labels = DEPLOYMENT["template"]["metadata"]["labels"]
    constraint = POD["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]
    budget = RESOURCES["PodDisruptionBudget", "orchestrator"]["spec"]
    service = RESOURCES["Service", "orchestrator"]["spec"]["selector"]
    assert [DEPLOYMENT["selector"]["matchLabels"], constraint, budget["selector"]["matchLabels"], service] == [
        labels
    ] * 4
    store = RESOURCES["StatefulSet", "valkey"]["spec"]
    assert RESOURCES["Service", "valkey"]["spec"]["selector"] == store["template"]["metadata"]["labels"]
    assert budget["maxUnavailable"] < AUTOSCALER["minReplicas"], "one pod may stop while another serves"


def test_the_startup_probe_allows_the_configured_load_time(node: Settings) -> None:
    probe = CONTAINER["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > node.preload_seconds + node.boot_timeout_seconds


def test_service_links_set_no_setting() -> None:
    """A Service named livekit would set LIVEKIT_PORT to tcp://…, and a node would refuse to start."""
    clashes = {name for name in Settings.model_fields if name.endswith(("_port", "_host"))}
    assert "livekit_port" in clashes
    assert POD["enableServiceLinks"] is False


def test_a_pod_has_minimal_privileges(node: Settings) -> None:
    for pod in (POD, RESOURCES["StatefulSet", "valkey"]["spec"]["template"]["spec"]):
        container = pod["containers"][0]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    mounted = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert {str(node.run_dir)} == set(mounted)
    assert {volume["name"] for volume in POD["volumes"] if "emptyDir" in volume} == set(mounted.values())


def test_the_user_matches_the_image() -> None:
    context = POD["securityContext"]
    assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"]
    assert re.search(
        rf"^USER {context['runAsUser']}\b", (REPOSITORY / "Dockerfile.orchestrator").read_text(), re.MULTILINE
    )


def test_a_pod_is_added_before_the_nodes_are_full(node: Settings) -> None:
    (metric,) = AUTOSCALER["metrics"]
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    name = metric["pods"]["metric"]["name"]
    assert name == rule["name"]["as"]
    assert rule["seriesQuery"].startswith(name + "{")
    assert f"`{name}`" in metrics.table()
    assert 0 < int(metric["pods"]["target"]["averageValue"]) < node.node_sessions
    told = f"against {metric['pods']['target']['averageValue']} of NODE_SESSIONS={CONFIG['NODE_SESSIONS']}"
    assert told in " ".join((REPOSITORY / "docs/deploy.md").read_text().split())
    assert AUTOSCALER["maxReplicas"] * node.node_sessions == node.max_sessions
