"""The sampler: it samples at its interval, loses no error, and fails without samples."""

import threading
from itertools import count

import pytest

from tests.support.processes import poll
from tests.support.sampler import Sampler


def failing(*errors: Exception | None) -> "Sampler[int]":
    """Return a sampler whose function raises these errors in turn, and then none."""
    left = list(errors)

    def look() -> int:
        if left and (error := left.pop(0)):
            raise error
        return 7

    return Sampler(look, 0.001, ignore=(ConnectionError,))


def test_sampler_collects_times_and_values_until_the_end() -> None:
    with Sampler(count().__next__, 0.01) as sampler:
        poll(lambda: len(sampler.samples) >= 10, "ten samples")
    assert sampler.values == list(range(len(sampler.samples)))
    times = [at for at, _ in sampler.samples]
    assert times == sorted(times)
    # Once per period: ten samples take nine periods.
    assert times[9] - times[0] > 0.08
    assert 0.009 < sampler.longest_gap <= times[-1] - times[0]
    assert not [thread for thread in threading.enumerate() if thread.name == "sampler"]


def test_sampler_samples_at_least_once() -> None:
    with Sampler(lambda: 7, 60) as sampler:
        pass
    assert sampler.values == [7]
    assert sampler.longest_gap == 0.0


def test_errors_are_raised_at_the_end_and_sampling_continues() -> None:
    first, second = AssertionError("4 > 3"), ValueError("broken")
    sampler = failing(None, first, ConnectionError("allowed"), second)
    with pytest.raises(ExceptionGroup, match="2 looks failed") as caught, sampler:
        poll(lambda: len(sampler.samples) >= 3, "it continues")
    assert caught.value.exceptions == (first, second)
    assert sampler.ignored == 1


def test_ignored_errors_are_counted_and_not_raised() -> None:
    with failing(ConnectionResetError(), ConnectionError()) as sampler:
        poll(lambda: sampler.samples, "it continues")
    assert sampler.ignored == 2


def test_a_sampler_without_samples_fails() -> None:
    with pytest.raises(AssertionError, match="no sample"), failing(*[ConnectionError()] * 100_000):
        pass


def test_the_error_of_the_test_takes_precedence() -> None:
    def fail() -> None:
        with failing(ValueError("broken")) as sampler:
            poll(lambda: sampler.samples, "it continues")
            raise KeyError

    with pytest.raises(KeyError) as caught:
        fail()
    assert "broken" in caught.value.__notes__[0]


def test_a_hung_sample_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.sampler._PATIENCE", 0.1)
    go_on = threading.Event()
    sampler = Sampler(lambda: go_on.wait(60))
    with pytest.raises(TimeoutError, match="did not end"), sampler:
        pass
    go_on.set()
    poll(lambda: not [thread for thread in threading.enumerate() if thread.name == "sampler"], "it has ended")
