"""One node and many steps on it: each step is a subtest, so that a step that fails hides no other.

`STEP=its_name pytest …` takes only the steps whose names begin so.
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
    """Return what a step is called in a report: its function, and the arguments that a partial gives it by name."""
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
            # The walk's own timeout is raised once, in the step that it meets: the steps after it would have none.
            in_time = "Timeout" not in str(failure)
            raise
    assert in_time, f"no time is left after: {name(step)}"


async def walk(subtests: pytest.Subtests, steps: list[Step], *arguments: Any) -> None:
    """Take each step, a coroutine or a plain function, with the same arguments."""
    for step in _chosen(steps):
        with _taken(subtests, step):
            result = step(*arguments)
            if inspect.isawaitable(result):
                await result


def walk_plainly(subtests: pytest.Subtests, steps: list[Step], *arguments: Any) -> None:
    """Take each step, a plain function, outside of any event loop: Playwright's plain API wants none."""
    for step in _chosen(steps):
        with _taken(subtests, step):
            step(*arguments)
