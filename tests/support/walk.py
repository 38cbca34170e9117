"""Many steps on one node: each step is a subtest, so that a failed step does not hide the others.

`STEP=prefix pytest …` runs only the steps whose names begin with that prefix.
"""

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Step = Callable[..., Any]


def name(step: Step) -> str:
    """Return a step's name in a report: its function, and the keyword arguments of a partial."""
    function, given = (step.func, step.keywords) if isinstance(step, functools.partial) else (step, {})
    values = ", ".join(str(getattr(value, "__name__", value)) for value in given.values())
    return function.__name__.replace("_", " ") + (f" [{values}]" if values else "")


def _chosen(steps: list[Step]) -> list[Step]:
    return [step for step in steps if getattr(step, "func", step).__name__.startswith(os.environ.get("STEP", ""))]


@contextlib.contextmanager
def _taken(subtests: pytest.Subtests, step: Step) -> Iterator[None]:
    in_time = True
    with subtests.test(name(step)):
        try:
            yield
        except pytest.fail.Exception as failure:
            # The timeout is raised only once, in the current step: later steps would run without one.
            in_time = "Timeout" not in str(failure)
            raise
    assert in_time, f"the test timed out in the step: {name(step)}"


async def walk(subtests: pytest.Subtests, steps: list[Step], *arguments: Any) -> None:
    """Run each step, a coroutine or a plain function, with the same arguments."""
    for step in _chosen(steps):
        with _taken(subtests, step):
            result = step(*arguments)
            if inspect.isawaitable(result):
                await result


def walk_plainly(subtests: pytest.Subtests, steps: list[Step], *arguments: Any) -> None:
    """Run each step, a plain function, without an event loop: Playwright's synchronous API does not allow one."""
    for step in _chosen(steps):
        with _taken(subtests, step):
            step(*arguments)
