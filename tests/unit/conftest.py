"""Fixtures of the quick tests."""

from collections.abc import Iterator

import pytest

from tests.support.host import HOSTS


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    for host in HOSTS:
        host.sweep()
    HOSTS.clear()
