"""Fixtures of the tests of single programs on a real Valkey."""

import pytest

from orchestrator.api import lifecycle


@pytest.fixture(autouse=True)
def _patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the api wait longer for Redis than it does for users, so that a busy machine makes no answer a 503.

    Tests of a Redis that does not answer are marked `impatient`: they need the api's own time-out.
    """
    if not request.node.get_closest_marker("impatient"):
        monkeypatch.setattr(lifecycle, "PATIENCE", 15.0)
