"""The list of guards: each can be removed, each test exists, every chaos test has one, the docs repeat it."""

import ast
import re
from pathlib import Path

import pytest

from tests.guards.anchors import REPOSITORY, places
from tests.guards.table import GUARDS, Guard


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_each_guard_can_be_removed(guard: Guard, tmp_path: Path) -> None:
    """Its name occurs once, and the code compiles without it; `make guards` shows that the test then fails."""
    for change in guard.changes:
        copy = tmp_path / change.file
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            copy.write_text((REPOSITORY / change.file).read_text())
        change.make(tmp_path)
        if copy.suffix == ".py":
            ast.parse(copy.read_text())
    file, _, name = guard.test.partition("::")
    assert not name or f"def {name.partition('[')[0]}(" in (REPOSITORY / file).read_text()
    if step := guard.environment.get("STEP"):
        steps = [path.read_text() for path in (REPOSITORY / "tests/e2e").glob("*.py")]
        assert sum(f"def {step}(" in text for text in steps) == 1


def test_every_guard_named_in_the_code_exists() -> None:
    assert places().keys() - {change.name for guard in GUARDS for change in guard.changes} == set()


def test_every_chaos_test_has_a_guard() -> None:
    tests = {
        f"{path.relative_to(REPOSITORY)}::{name}"
        for path in (REPOSITORY / "tests/chaos").glob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    held = {guard.test.partition("[")[0] for guard in GUARDS}
    held.add("tests/chaos/test_crash_points.py::test_every_fault_point_was_hit")  # needs its whole file
    # Guards of the reconciler are tested in integration/test_webhook.py.
    held |= {test for test in tests if test.startswith("tests/chaos/test_untold.py")}
    # The simulation of the same name fails sooner.
    held |= {test.replace("tests/simulation/", "tests/chaos/") for test in held}
    assert tests - held == set()


def test_the_documentation_names_all_guards() -> None:
    text = (REPOSITORY / "docs/testing.md").read_text()
    missing = [guard.row for guard in GUARDS if guard.row not in text]
    assert not missing, "python -m tests.guards --table prints them:\n" + "\n".join(missing)
