"""Loads the Lua scripts and calls them."""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from orchestrator.states import lua_tables
from orchestrator.store import histograms
from orchestrator.store.refusals import translate

LUA = resources.files("orchestrator.store") / "lua"


@cache
def sources(prefix: str = "") -> dict[str, str]:
    """Return every script by name, with its tables and the prelude in front, and what puts a prefix before its keys."""
    renaming = f"local PREFIX = '{prefix}'\n{(LUA / '_prefix.lua').read_text()}" if prefix else ""
    prelude = renaming + lua_tables() + histograms.lua_table() + (LUA / "_prelude.lua").read_text()
    return {
        path.name.removesuffix(".lua"): prelude + path.read_text()
        for path in LUA.iterdir()
        if path.name.endswith(".lua") and not path.name.startswith("_")
    }


class Scripts:
    """The Lua scripts of one Redis client, called by name."""

    def __init__(self, redis: Redis, prefix: str = "") -> None:
        self._scripts: dict[str, AsyncScript] = {
            name: redis.register_script(source) for name, source in sources(prefix).items()
        }

    async def call(self, name: str, keys: Sequence[str] = (), args: Sequence[str | int | float] = ()) -> Any:
        """Run one script.

        Raises:
            IllegalMove: a state table forbids it; nothing was changed.
            StoreUnavailable: Redis did not answer, so whether the script ran is unknown; or it does not serve now.
        """
        try:
            return await self._scripts[name](keys=list(keys), args=list(args))
        except RedisError as failure:
            raise translate(failure) from failure

    def queue(self, pipe: Any, name: str, args: Sequence[str | int | float] = ()) -> None:
        """Add one script without KEYS to a pipeline; it answers NOSCRIPT until it was called once."""
        pipe.evalsha(self._scripts[name].sha, 0, *args)
