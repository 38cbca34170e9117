"""Documents that must match the code's metrics."""

import json
import re
from pathlib import Path

import yaml

from orchestrator.operations.metrics import table

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "metrics.md").read_text()


def test_the_table_of_metrics_matches_the_code() -> None:
    shown = DOCUMENT.partition("<!-- generated: metrics -->\n")[2].partition("\n<!-- end -->")[0]
    assert shown == table(), "run: make docs"


def test_every_alert_is_documented() -> None:
    (group,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    named = re.findall(r"^\| `(Orchestrator\w+)` \|.*\| (\w+) \|$", DOCUMENT, re.MULTILINE)
    assert named == [(rule["alert"], rule["labels"]["severity"]) for rule in group["rules"]]


def test_every_event_of_the_webhook_is_documented() -> None:
    scripts = "".join(path.read_text() for path in (ROOT / "orchestrator" / "store" / "lua").rglob("*.lua"))
    sent = set(re.findall(r"'((?:pool|breaker|agents|error_rate|takeover)\.[a-z]+)'", scripts))
    assert len(sent) == 11
    assert sent == set(re.findall(r"^\| `([a-z_]+\.[a-z]+)` \|", DOCUMENT, re.MULTILINE))


def test_the_dashboard_can_be_imported() -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "orchestrator.json").read_text())
    assert [variable["type"] for variable in board["templating"]["list"]] == ["datasource"]
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels:
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            # Each API process exports the same values, so a sum over processes would count them twice.
            assert not re.match(r"sum", target["expr"]), target["expr"]


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((ROOT / "deploy" / "grafana" / "orchestrator.json").read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
