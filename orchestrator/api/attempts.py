"""Counts the keys and tokens that are none: nobody tries them out by the thousand.

Every secret has 16 characters at least, so this protects the log and the operator's nerves more than the secret.
Failure case: an address that many share (a proxy that TRUSTED_PROXY does not name) → one of them must not lock out the
others: where a right secret was shown lately, wrong ones are answered 401 as ever.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

#: Wrong secrets that an address may show within so many seconds.
MOST, WINDOW_SECONDS = 20, 60.0
#: After a right secret an address is not locked out for so long.
GOOD_SECONDS = 3600.0
#: Addresses that are remembered; the one that was seen longest ago is forgotten first.
ADDRESSES = 10_000


@dataclass(slots=True)
class _Seen:
    began: float
    wrong: int = 0
    good_until: float = float("-inf")


class Attempts:
    """What one api process has seen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def shown(self, address: str, *, good: bool) -> float:
        """Take note of a secret; returns the seconds for which the address is locked out, 0 when it is not."""
        now = self._clock()
        seen = self._seen.setdefault(address, _Seen(now))
        self._seen.move_to_end(address)
        if len(self._seen) > ADDRESSES:
            self._seen.popitem(last=False)
        if now >= seen.began + WINDOW_SECONDS:
            seen.began, seen.wrong = now, 0
        trusted = now < seen.good_until
        if not trusted and seen.wrong >= MOST:
            return seen.began + WINDOW_SECONDS - now
        if good:
            seen.good_until = now + GOOD_SECONDS
        else:
            seen.wrong += 1
        return 0.0
