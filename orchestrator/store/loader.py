"""Assembles the Lua scripts, each with the parts that it needs, and calls them.

A script, or a file of lua/lib, says in its header which parts it uses: `-- include: clock, deadlines`. In front of a
script stand the parts that it includes, and those that they include, each once and before what uses it. Comments are
left out.

Redis runs a whole script at each call: every function and table at its top level is built again, also those that this
call does not need. So a script names the functions that it rarely calls: `-- defer: exit_agent`. Such a function is
built, with those parts that nothing else in the script includes, when it is called.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from orchestrator.store.generated import GENERATED, key_positions
from orchestrator.store.refusals import translate

LUA = resources.files("orchestrator.store") / "lua"

_INCLUDE = re.compile(r"^-- include: (.+)$", re.MULTILINE)
_DEFER = re.compile(r"^-- defer: (.+)$", re.MULTILINE)
_FUNCTION = re.compile(r"^local function (\w+)", re.MULTILINE)
_COMMENT = re.compile(r"(^|\s)--.*$", re.MULTILINE)
_BLANK = re.compile(r"^\s*\n", re.MULTILINE)


def includes(text: str) -> list[str]:
    """Return the parts that the header of a Lua file names."""
    return _names(_INCLUDE, text)


def deferred(text: str) -> list[str]:
    """Return the functions that the header of a script defers."""
    return _names(_DEFER, text)


def _names(header: re.Pattern[str], text: str) -> list[str]:
    return [name.strip() for line in header.findall(text) for name in line.split(",")]


def without_comments(text: str) -> str:
    """Return Lua code without its comments. No string in our scripts contains two hyphens after a space."""
    return _BLANK.sub("", _COMMENT.sub("", text))


@cache
def library() -> Mapping[str, str]:
    """Return all parts that can be included, by name, with their headers."""
    files = {
        path.name.removesuffix(".lua"): path.read_text()
        for path in (LUA / "lib").iterdir()
        if path.name.endswith(".lua")
    }
    return files | {name: generate() for name, generate in GENERATED.items()}


@cache
def _functions() -> Mapping[str, str]:
    """Return the part that defines each function of the library."""
    return {function: name for name, text in library().items() for function in _FUNCTION.findall(text)}


def _place(name: str, placed: dict[str, str], within: tuple[str, ...] = ()) -> None:
    """Add a part to those that are placed, behind those that it includes."""
    if name in within:
        raise ValueError(f"the Lua part {name} includes itself: {' -> '.join((*within, name))}")
    if name not in placed:
        for each in includes(library()[name]):
            _place(each, placed, (*within, name))
        placed[name] = without_comments(library()[name])


def _deferred_function(name: str, placed: Mapping[str, str]) -> str:
    """Return a function that builds itself, and the parts that are not placed yet, when it is called."""
    within = dict(placed)
    _place(_functions()[name], within)
    parts = "".join(text for part, text in within.items() if part not in placed)
    return f"local function {name}(...)\n{parts}return {name}(...)\nend\n"


def assemble(text: str, prefix: str = "") -> str:
    """Return a script with its parts in front; `prefix` is put before the names of its keys.

    Raises:
        ValueError: a part includes itself, at some remove.
        KeyError: there is no such part, or no such function to defer.
    """
    placed: dict[str, str] = {}
    if prefix:
        placed["prefix"] = f"local PREFIX='{prefix}'\n{key_positions()}" + without_comments(library()["prefix"])
    for each in includes(text):
        _place(each, placed)
    stubs = [_deferred_function(name, placed) for name in deferred(text)]
    return "".join([*placed.values(), *stubs]) + without_comments(text)


@cache
def sources(prefix: str = "") -> Mapping[str, str]:
    """Return every script by name, assembled. A process that forks calls this first: its children share the text."""
    return {
        path.name.removesuffix(".lua"): assemble(path.read_text(), prefix)
        for path in LUA.iterdir()
        if path.name.endswith(".lua")
    }


def named(**arguments: str | int | None) -> list[str | int]:
    """Return the arguments of a script that takes them by name; those that are empty or 0 are left out."""
    return [part for name, value in arguments.items() if value for part in (name, value)]


class Scripts:
    """The Lua scripts of one Redis client, called by name."""

    def __init__(self, redis: Redis, prefix: str = "") -> None:
        self._redis, self._prefix = redis, prefix
        self._scripts: dict[str, AsyncScript] = {}

    def _script(self, name: str) -> AsyncScript:
        if name not in self._scripts:
            self._scripts[name] = self._redis.register_script(sources(self._prefix)[name])
        return self._scripts[name]

    async def call(self, name: str, keys: Sequence[str] = (), args: Sequence[str | int | float] = ()) -> Any:
        """Run one script.

        Raises:
            IllegalMove: a state table forbids it; nothing was changed.
            StoreUnavailable: Redis did not answer, so whether the script ran is unknown; or it does not serve now.
        """
        try:
            return await self._script(name)(keys=list(keys), args=list(args))
        except RedisError as failure:
            raise translate(failure) from failure

    def queue(self, pipe: Any, name: str, args: Sequence[str | int | float] = ()) -> None:
        """Add one script without KEYS to a pipeline; its answer is NOSCRIPT until `call` has loaded it."""
        pipe.evalsha(self._script(name).sha, 0, *args)
