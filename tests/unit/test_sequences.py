"""Derandomized Hypothesis tries the same examples whatever else is loaded into the process."""

import importlib
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def _tried() -> list[int]:
    found: list[int] = []

    @settings(derandomize=True, database=None, max_examples=300)
    @given(st.integers(0, 10**9))
    def look(number: int) -> None:
        found.append(number)

    look()
    return found


@pytest.mark.thorough
def test_loading_another_module_changes_no_derandomized_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _tried()
    (tmp_path / "full_of_numbers.py").write_text(f"NUMBERS = {[7_000_000 + 13 * n for n in range(500)]}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("full_of_numbers")
    try:
        assert _tried() == before
    finally:
        sys.modules.pop("full_of_numbers")
