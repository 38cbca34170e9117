"""The alerts and the dashboard in deploy/, checked with promtool."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.promtool import DEPLOY, run_promtool

pytestmark = pytest.mark.thorough


def test_promtool_accepts_the_rules_and_their_tests_pass() -> None:
    for arguments in ("check rules alerts.yml", "check config prometheus.yml", "test rules alerts_test.yml"):
        done = run_promtool(DEPLOY / "prometheus", *arguments.split())
        assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_that_never_fires_fails_its_test(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "prometheus" / "alerts_test.yml", tmp_path)
    for number, name in enumerate(alert["alert"] for alert in alerts()):
        never = alerts()
        never[number]["expr"] = f"vector(1) > 2 and on() ({never[number]['expr']})"
        rules = {"groups": [{"name": "orchestrator", "rules": never}]}
        (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
        assert run_promtool(tmp_path, "check", "rules", "alerts.yml").returncode == 0
        assert run_promtool(tmp_path, "test", "rules", "alerts_test.yml").returncode != 0, f"no alert uses {name}"


def test_promtool_accepts_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    board = json.loads((DEPLOY / "grafana" / "orchestrator.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    queries += [annotation["expr"] for annotation in board["annotations"]["list"]]
    assert len(queries) > 30
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = run_promtool(tmp_path, "check", "rules", "rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_severity_and_a_remedy() -> None:
    for alert in alerts():
        assert alert["for"], alert
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert alert["annotations"]["summary"]
        assert len(alert["annotations"]["description"]) > 80


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return list(group["rules"])
