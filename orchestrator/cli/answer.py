"""Turns a function that returns data into a command that prints it: for people, or with --json as it is."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from orchestrator.node.output import Json, print_json

P = ParamSpec("P")
T = TypeVar("T")


def shown_by(show: Callable[[T], None]) -> Callable[[Callable[P, T]], Callable[..., None]]:
    """Return a decorator that adds the option --json to a command. Without it, `show` prints what the command returns.

    A command that prints as it goes along takes `json` itself instead.
    """

    def decorate(command: Callable[P, T]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*arguments: Any, json: bool, **options: Any) -> None:
            data = command(*arguments, **options)
            if json:
                print_json(data)
            else:
                show(data)

        # Typer reads a command's arguments and options from here.
        signature = inspect.signature(command)
        option = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
        parameters = [*signature.parameters.values(), option]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = command.__annotations__ | {"json": Json, "return": None}
        return run

    return decorate
