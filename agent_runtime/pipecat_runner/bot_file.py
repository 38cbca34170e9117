"""Imports the bot's file and finds in it what runs a call."""

import importlib
import inspect
import sys
from collections.abc import Awaitable, Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

Bot = Callable[[Any], Awaitable[None]]


class NoBotError(Exception):
    """The file has nothing that can serve a call."""


def load(name: str) -> ModuleType:
    """Import a file, or a module by its name, as Python would to run it, except that it is not `__main__`."""
    sys.argv[:] = [name]
    path = Path(name)
    if path.suffix != ".py":
        sys.path.insert(0, "")
        return importlib.import_module(name)
    if not path.is_file():
        raise NoBotError(f"there is no file {name}")
    sys.path.insert(0, str(path.resolve().parent))
    spec = spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bot_of(module: ModuleType) -> Bot:
    """Return `bot(runner_args)`, or `main()` of a file that asks Pipecat for its room by `configure()`."""
    from pipecat.runner import livekit  # noqa: PLC0415 - the Pipecat of the bot's environment

    bot = getattr(module, "bot", None)
    if inspect.iscoroutinefunction(bot):
        return bot
    main = getattr(module, "main", None)
    ask = (livekit.configure, livekit.configure_with_args)
    if inspect.iscoroutinefunction(main):
        if any(value in ask for value in vars(module).values() if inspect.isfunction(value)):
            return lambda _: main()
        raise NoBotError("main() asks for its room in another way than by pipecat.runner.livekit.configure()")
    raise NoBotError("the file has neither `async def bot(runner_args)` nor `async def main()`")
