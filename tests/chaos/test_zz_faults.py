"""Every fault point has been hit by the run. Last by its name, so that everything else has run."""

from pathlib import Path

import pytest

from orchestrator.faults import POINTS
from tests.support.armed import happened


def test_every_fault_point_was_hit(request: pytest.FixtureRequest, fault_log: Path) -> None:
    mine = Path(__file__)
    collected = {item.path for item in request.session.items}
    left_out = {path.name for path in mine.parent.glob("test_*.py")} - {path.name for path in collected}
    if left_out or request.config.option.keyword:
        pytest.skip(f"only a part of the chaos tests runs; not collected: {', '.join(sorted(left_out)) or 'by -k'}")
    assert happened(fault_log.parent) == set(POINTS)
