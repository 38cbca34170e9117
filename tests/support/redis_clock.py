"""Time by Redis's clock, which is the product's own.

A test that compares what Redis wrote with its own clock, read later, fails when the machine pauses in between.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import redis


def redis_time(raw: "redis.Redis") -> float:
    """Return Unix seconds by Redis's clock, by which the product measures too."""
    seconds, microseconds = raw.time()
    return int(seconds) + int(microseconds) / 1e6


@dataclass
class Span:
    """The time in which a call ran, in ms by Redis's clock. What Redis wrote meanwhile lies in it."""

    begun: int
    ended: float = math.inf

    def has(self, moment: float | None, ahead: float = 0, at_most: float | None = None) -> bool:
        """Return whether a moment lies `ahead` ms after one in the span (between `ahead` and `at_most` ms)."""
        most = ahead if at_most is None else at_most
        return moment is not None and self.begun + ahead <= moment <= self.ended + most


@contextlib.contextmanager
def span(raw: "redis.Redis") -> Iterator[Span]:
    """Read Redis's clock before and after the body."""
    found = Span(math.floor(redis_time(raw) * 1000))  # scripts count whole ms
    yield found
    found.ended = redis_time(raw) * 1000
