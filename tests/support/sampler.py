"""Samples a value throughout a test, to prove that something is true at every moment."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
#: Maximum wait for the last sample, in seconds.
_PATIENCE = 30


class Sampler(Generic[T]):
    """Calls `look` every `seconds` in a thread of its own, from entry to exit.

    On exit it raises the errors of `look`, except for the types in `ignore`. It also fails if there is no sample,
    because then nothing was proved. If the test itself fails, its error is raised, with the sampler's as a note.
    """

    def __init__(
        self, look: Callable[[], T], seconds: float = 0.1, *, ignore: tuple[type[Exception], ...] = ()
    ) -> None:
        self._look = look
        self._seconds = seconds
        self._ignore = ignore
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        #: The monotonic time just before each call of `look`, and its result.
        self.samples: list[tuple[float, T]] = []
        self.errors: list[Exception] = []
        #: How often `look` raised an error that is ignored.
        self.ignored = 0

    @property
    def values(self) -> list[T]:
        """The sampled values, in order."""
        return [value for _, value in list(self.samples)]

    @property
    def longest_gap(self) -> float:
        """The longest time between two samples, in seconds: a shorter change may have been missed."""
        times = [at for at, _ in list(self.samples)]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    def __enter__(self) -> "Sampler[T]":
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_PATIENCE)
        problem = self._problem()
        if problem is None:
            return
        if error is None:
            raise problem
        error.add_note(f"The sampler, too: {problem!r}")

    def _problem(self) -> Exception | None:
        if self._thread.is_alive():
            return TimeoutError(f"a look did not end within {_PATIENCE} s")
        if self.errors:
            return ExceptionGroup(f"{len(self.errors)} looks failed", self.errors)
        if not self.samples:
            return AssertionError(f"no sample was taken, {self.ignored} looks failed as was allowed")
        return None

    def _run(self) -> None:
        due = at = time.monotonic()
        while True:
            try:
                self.samples.append((at, self._look()))
            except self._ignore:
                self.ignored += 1
            except Exception as error:  # An error in a thread would be lost: it is raised on exit.
                self.errors.append(error)
            # Samples that are late are skipped, not taken in a burst.
            due = max(due + self._seconds, time.monotonic())
            if self._stop.wait(due - time.monotonic()):
                return
            at = time.monotonic()
