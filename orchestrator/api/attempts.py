"""Locks out addresses that send many wrong keys or tokens.

Every secret has at least 16 characters, so this keeps the log readable more than it protects the secret.
Failure case: many clients share an address (a proxy that TRUSTED_PROXY does not name) → one of them must not lock out
the others: an address that has sent a right secret lately is answered 401, not locked out.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

#: Wrong secrets that an address may send, and the period in seconds.
MOST, WINDOW_SECONDS = 20, 60.0
#: Seconds after a right secret in which its address is not locked out.
GOOD_SECONDS = 3600.0
#: Addresses that are remembered; the least recent one is dropped first.
ADDRESSES = 10_000


@dataclass(slots=True)
class _Seen:
    began: float
    wrong: int = 0
    good_until: float = float("-inf")


class Attempts:
    """The attempts that one api process has seen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def record(self, address: str, *, good: bool) -> float:
        """Record one attempt; returns the seconds for which the address is locked out, 0 when it is not."""
        now = self._clock()
        seen = self._seen.setdefault(address, _Seen(now))
        self._seen.move_to_end(address)
        if len(self._seen) > ADDRESSES:
            self._seen.popitem(last=False)
        if now >= seen.began + WINDOW_SECONDS:
            seen.began, seen.wrong = now, 0
        trusted = now < seen.good_until
        # guard: wrong-secrets
        if not trusted and seen.wrong >= MOST:
            return seen.began + WINDOW_SECONDS - now
        if good:
            seen.good_until = now + GOOD_SECONDS
        else:
            seen.wrong += 1
        return 0.0
