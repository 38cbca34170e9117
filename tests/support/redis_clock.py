"""Time by Redis's clock, which the product uses too.

A test that compared times from Redis with a later reading of its own clock would fail if the machine paused in between.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import redis


def redis_time(raw: "redis.Redis") -> float:
    """Return Unix seconds by Redis's clock."""
    seconds, microseconds = raw.time()
    return int(seconds) + int(microseconds) / 1e6


@dataclass
class Span:
    """The period in which a block ran, in ms by Redis's clock. Redis's timestamps of that period are within it."""

    begun: int
    ended: float = math.inf

    def has(self, moment: float | None, ahead: float = 0, at_most: float | None = None) -> bool:
        """Return whether a time is `ahead` ms (or between `ahead` and `at_most` ms) after some moment of the span."""
        most = ahead if at_most is None else at_most
        return moment is not None and self.begun + ahead <= moment <= self.ended + most


@contextlib.contextmanager
def span(raw: "redis.Redis") -> Iterator[Span]:
    """Read Redis's clock before and after the body."""
    found = Span(math.floor(redis_time(raw) * 1000))  # scripts count whole ms
    yield found
    found.ended = redis_time(raw) * 1000
