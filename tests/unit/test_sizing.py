"""The warnings when a node needs more memory than it has."""

from typing import Any

import pytest

from orchestrator.cli import doctor
from orchestrator.operations import sizing
from orchestrator.settings import Settings

REDIS: dict[str, Any] = {"redis_url": "redis://far"}


def test_the_default_pool_fits_into_a_gigabyte_and_a_larger_one_does_not() -> None:
    assert sizing.warning(Settings(**REDIS), 1 << 30) is None
    said = sizing.warning(Settings(pool_target=20, **REDIS), 1 << 30)
    assert str(said) == (
        "POOL_TARGET=20 and MEMORY_HEADROOM_MB=256 need about 1158 MiB of memory, and the limit is 1024 MiB: "
        "give it 1216 MiB, or lower POOL_TARGET to 11."
    )


@pytest.mark.parametrize("settings", [{"pool_target": 20}, {"pool_auto": True, "pool_max": 30}, {"pool_target": 500}])
def test_the_suggested_values_are_sufficient(settings: dict[str, Any]) -> None:
    said = sizing.warning(Settings(**settings), 1 << 30)
    assert said
    more, name, lower = said.params["enoughMib"], str(said.params["setting"]), said.params["lower"]
    assert f"give it {more} MiB, or lower {name} to {lower}." in str(said)
    assert sizing.warning(Settings(**settings), int(more) << 20) is None
    assert sizing.warning(Settings(**settings | {name.lower(): int(lower)}), 1 << 30) is None
    assert sizing.warning(Settings(**settings | {name.lower(): int(lower) + 1}), 1 << 30)


def test_only_more_memory_is_suggested_when_no_setting_helps() -> None:
    said = str(sizing.warning(Settings(**REDIS), 512 << 20))
    assert said.endswith("and the limit is 512 MiB: give it 960 MiB.")


def test_the_warning_names_the_number_of_calls_that_fit() -> None:
    said = str(sizing.calls_warning(Settings(**REDIS), 1 << 30))
    assert "lower MAX_SESSIONS to 2," in said
    assert sizing.calls_warning(Settings(max_sessions=2, **REDIS), 1 << 30) is None
    assert sizing.calls_warning(Settings(max_sessions=3, **REDIS), 1 << 30)
    assert sizing.calls_warning(Settings(**REDIS), 10 << 30) is None
    assert sizing.calls_warning(Settings(node_sessions=2, **REDIS), 1 << 30) is None
    assert "lower NODE_SESSIONS to 2," in str(sizing.calls_warning(Settings(node_sessions=9, **REDIS), 1 << 30))


def test_without_a_known_memory_limit_there_is_no_warning() -> None:
    assert sizing.warning(Settings(), None) is None
    assert sizing.calls_warning(Settings(), None) is None


@pytest.mark.parametrize("gigabytes", [1, 2, 4, 8])
@pytest.mark.parametrize("pool", [3, 20])
def test_doctor_gives_the_same_advice_as_the_node(gigabytes: int, pool: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "limit_bytes", lambda: gigabytes << 30)
    settings = Settings(pool_target=pool, max_sessions=500)
    found = doctor._memory(settings)
    node = sizing.warning(settings, gigabytes << 30)
    assert found.ok is (node is None)
    assert found.remedy == str(node or sizing.calls_warning(settings, gigabytes << 30) or "")
