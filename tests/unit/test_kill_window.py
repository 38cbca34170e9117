"""The warning when the platform kills a node before the end of its drain."""

import configparser
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.node import livekit_server
from orchestrator.node.environment import node_environment
from orchestrator.node.preflight import CONFIGURATION
from orchestrator.operations import kill_window
from orchestrator.settings import Settings

RAILWAY = {"RAILWAY_PROJECT_ID": "p"}
DRAINING = "RAILWAY_DEPLOYMENT_DRAINING_SECONDS"


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"RAILWAY_TOKEN": "of a developer"}, None),
        ({"RAILWAY_ENVIRONMENT": "production"}, 0),
        ({"RAILWAY_SERVICE_ID": "s", DRAINING: "45"}, 45),
        (RAILWAY | {DRAINING: ""}, 0),
        (RAILWAY | {DRAINING: "soon"}, 0),
        (RAILWAY | {DRAINING: "nan"}, 0),
        (RAILWAY | {DRAINING: "-1"}, 0),
        ({DRAINING: "20"}, 20),
    ],
)
def test_the_kill_window_of_railway_is_read(environ: dict[str, str], seconds: float | None) -> None:
    assert kill_window.window(Settings(), environ) == seconds


def test_the_setting_overrides_the_platform() -> None:
    assert kill_window.window(Settings(kill_window_seconds=60), RAILWAY) == 60
    assert kill_window.window(Settings(kill_window_seconds=0), RAILWAY | {DRAINING: "9"}) == 0


def _warning(environ: dict[str, str], stopping: float | None = 9, **settings: Any) -> str:
    return str(kill_window.warning(Settings(**settings), environ, stopping) or "")


def test_a_short_window_causes_a_warning_with_numbers_and_a_remedy() -> None:
    said = "DRAIN_SECONDS=30 and 12 s to stop need 42 s, but the platform kills after 0 s: "
    assert _warning(RAILWAY, drain_seconds=30) == said + f"set {DRAINING}=45."
    assert f"set {DRAINING}=45, or lower DRAIN_SECONDS to 28." in _warning(RAILWAY | {DRAINING: "40"}, drain_seconds=30)
    assert "set KILL_WINDOW_SECONDS=45, or lower DRAIN_SECONDS to 28." in _warning(
        RAILWAY | {DRAINING: "90"}, drain_seconds=30, kill_window_seconds=40
    )


def test_the_suggested_values_are_sufficient() -> None:
    said = _warning(RAILWAY | {DRAINING: "40"}, drain_seconds=30)
    longer, lower = re.search(r"=(\d+), or lower DRAIN_SECONDS to (\d+)\.", said).groups()  # type: ignore[union-attr]
    assert not _warning(RAILWAY | {DRAINING: longer}, drain_seconds=30)
    assert not _warning(RAILWAY | {DRAINING: "40"}, drain_seconds=float(lower))


def test_a_sufficient_or_unknown_window_causes_no_warning() -> None:
    assert not _warning({}, drain_seconds=3600)
    assert not _warning(RAILWAY | {DRAINING: "42"}, drain_seconds=30)
    assert _warning(RAILWAY | {DRAINING: "41.9"}, drain_seconds=30)
    assert not _warning(RAILWAY | {DRAINING: "9"}, drain_seconds=0), "without a drain its margin is not needed"


def test_the_stop_time_counts_only_programs_that_run() -> None:
    assert kill_window.stopping(Settings()) == 28
    assert kill_window.stopping(Settings(redis_url="redis://far")) == 23
    assert kill_window.stopping(Settings(redis_url="redis://far", livekit_url="wss://far")) == 22
    assert "and 31 s to stop" in _warning(RAILWAY, None)


def test_the_stop_times_match_supervisord_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = configparser.RawConfigParser()
    programs.read(CONFIGURATION)
    found = {name.removeprefix("program:"): programs[name] for name in programs.sections() if ":" in name}
    found = {name: section for name, section in found.items() if "command" in section}
    drain = found.pop("drain")
    assert {name: int(section["stopwaitsecs"]) for name, section in found.items()} == kill_window.STOP_SECONDS
    assert all(int(drain["priority"]) > int(section["priority"]) for section in found.values())
    assert {section["autorestart"] for section in [drain, *found.values()]} == {"true"}

    monkeypatch.setattr(livekit_server, "obtain", lambda: Path("livekit-server"))
    settings = Settings(drain_seconds=41.5)
    environment = node_environment(settings, tmp_path)
    given = float(drain["stopwaitsecs"].replace("%(ENV_DRAIN_STOP_SECONDS)s", environment["DRAIN_STOP_SECONDS"]))
    assert given >= 51.5
    assert kill_window.drain_warning(settings, given) is None


def test_a_drain_longer_than_stopwaitsecs_causes_a_warning() -> None:
    said = kill_window.drain_warning(Settings(drain_seconds=30), 10)
    assert str(said) == (
        "DRAIN_SECONDS=30 needs up to 33 s, but supervisord kills the drain program after 10 s: "
        "set its stopwaitsecs to 38."
    )
    assert kill_window.drain_warning(Settings(drain_seconds=30), 33) is None
    assert kill_window.drain_warning(Settings(drain_seconds=0), 1) is None


def test_the_documentation_contains_these_numbers() -> None:
    page = " ".join((CONFIGURATION.parent / "docs/deploy.md").read_text().split())
    told = page[page.index("## Kill windows") :]
    settings = Settings(redis_url="redis://far", livekit_url="wss://far")
    after = kill_window.stopping(settings)
    assert f"needs {kill_window.DRAIN_MARGIN:g} s for the end of the drain, and up to {after:g} s" in told
    assert f"({kill_window.stopping(Settings()):g} s with the embedded Valkey and LiveKit server)" in told
    wanted = kill_window.drain_limit(settings) + after
    assert f"With DRAIN_SECONDS={settings.drain_seconds:g} a node wants {wanted:g} s" in told
    for window, drain in ((340 - 5, 300), (150, 120), (120, 95)):
        assert str(drain) in told
        assert not kill_window.warning(settings.model_copy(update={"drain_seconds": drain}), {DRAINING: str(window)})
