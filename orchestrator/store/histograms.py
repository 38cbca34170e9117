"""The histograms that are kept in Redis: which there are, their buckets, and how one is read.

The Lua scripts count into them where the fact is written (`observe` in lua/lib/histograms.lua), so every api process
gives the same figures, and a restart loses nothing. A bucket is a field that is named by its upper bound in
milliseconds and counts what lies in it alone; `us` is the sum in microseconds.
"""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_START = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000)
_STEP = (50, 100, 250, 500, 1000, 2500, 5000, 10_000, 20_000, 30_000)
_TAKEOVER = (100, 250, 500, 1000, 2000, 3000, 5000, 7500, 10_000)

#: Upper bounds in ms. A name is a histogram, or `histogram:series`.
BOUNDS: dict[str, Sequence[float]] = {
    "start:hit": _START,
    "start:wait": _START,
    "boot": _STEP,
    "join": _STEP,
    "first_audio": _STEP,
    "takeover": _TAKEOVER,
}
#: Samples kept of each histogram, for exact recent figures (`recent:{histogram}`).
RECENT = 500


@dataclass(frozen=True, slots=True)
class Histogram:
    """One series: (upper bound in seconds, how many lie at or below it), the last bound being infinite; the sum."""

    buckets: Sequence[tuple[float, int]]
    sum_seconds: float

    @property
    def count(self) -> int:
        """How many were counted."""
        return self.buckets[-1][1]


def read(name: str, fields: Mapping[str, str]) -> Histogram:
    """Build a series from its hash. What was counted under bounds of an earlier version goes to the next higher one."""
    bounds = BOUNDS[name]
    counts = [0] * (len(bounds) + 1)
    for field, count in fields.items():
        if field != "us":
            counts[bisect.bisect_left(bounds, float(field))] += int(count)
    total, buckets = 0, []
    for bound, inside in zip((*bounds, float("inf")), counts, strict=True):
        total += inside
        buckets.append((bound / 1000, total))
    return Histogram(buckets, int(fields.get("us", 0)) / 1e6)
