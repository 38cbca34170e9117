"""How the programs of a simulation reach its Valkey: redis-py's client without its sockets.

Each command runs after a short random delay from the seed, so the order of commands differs between seeds. A program
may be cut off from Redis.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any, Self

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.simulation.valkey import Valkey

_CALLBACKS: dict[str, Callable[..., Any]] = dict(
    Redis.from_pool(BlockingConnectionPool(protocol=3, decode_responses=True)).response_callbacks
)


class Network:
    """The network of one process to Redis: how long each command takes, and whether it arrives at all."""

    def __init__(
        self, valkey: Valkey, dice: random.Random, pass_on: Callable[[], Any], alive: Callable[[], bool]
    ) -> None:
        """`pass_on`: awaited before anything is sent; it does not return in a process that is dead or stopped."""
        self._valkey, self._dice, self._pass_on, self._alive = valkey, dice, pass_on, alive
        #: "" for no fault; `refuses`: every command fails immediately; `silent`: it fails after two seconds; `deaf`: it
        #: is executed but there is no answer.
        self.trouble = ""
        #: Commands take no time, and no other process runs in between.
        self.instant = False

    async def run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands atomically, after the delay."""
        if self.instant:
            return self._valkey.run(commands, asyncio.get_running_loop().time())
        results = await self._run(commands, ())
        assert isinstance(results, list)
        if self._dice.random() < 0.1:
            await asyncio.sleep(self._delay())
        await self._pass_on()
        return results

    async def _run(
        self, commands: Sequence[tuple[Any, ...]], keys: Sequence[str]
    ) -> "list[Any] | asyncio.Future[None]":
        await asyncio.sleep(self._delay())
        await self._pass_on()
        match self.trouble:
            case "refuses":
                raise RedisConnectionError("Connection refused")
            case "silent":
                await asyncio.sleep(2)
                raise RedisTimeoutError("Timeout reading from socket")
        results = self._take(commands, keys)
        if self.trouble == "deaf":
            await asyncio.sleep(2)
            raise RedisTimeoutError("Timeout reading from socket")
        return results

    async def take(self, commands: Sequence[tuple[Any, ...]], keys: Sequence[str], seconds: float) -> list[Any]:
        """Run commands that pop from lists, and repeat them at each push until one gets an element."""
        now = asyncio.get_running_loop().time
        end = now() + seconds
        found = await self._run(commands, keys)
        while isinstance(found, asyncio.Future):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await found
            if found.cancelled():
                break
            # The element is popped when it is pushed and not a round trip later, even for a stopped process.
            if not self._alive() or self.trouble in {"refuses", "silent"}:
                raise RedisConnectionError("Connection lost")
            found = self._take(commands, keys)
        await self._pass_on()
        return [None] if isinstance(found, asyncio.Future) else found

    def _take(self, commands: Sequence[tuple[Any, ...]], keys: Sequence[str]) -> "list[Any] | asyncio.Future[None]":
        now = asyncio.get_running_loop().time()
        if not keys:
            return self._valkey.run(commands, now)
        for at, command in enumerate(commands):
            (found,) = self._valkey.run([command], now)
            if found is not None:
                return [None] * at + [found]
        return self._valkey.waiter(keys)

    def load(self, source: str) -> str:
        """Load a script; returns its digest."""
        return self._valkey.load(source)

    def _delay(self) -> float:
        draw = self._dice.random()
        return draw * 0.002 if draw < 0.97 else self._dice.uniform(0.01, 0.4)


class _Script:
    def __init__(self, client: "Client", sha: str) -> None:
        self._client, self.sha = client, sha

    async def __call__(self, keys: Sequence[Any] = (), args: Sequence[Any] = (), **_: Any) -> Any:
        return await self._client.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)


class Client(Redis):
    """redis-py's client over a simulated network."""

    def __init__(self, network: Network) -> None:
        self.network = network

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        (reply,) = await self.network.run([args])
        return _answer(args[0], reply, options)

    def register_script(self, script: Any) -> Any:
        return _Script(self, self.network.load(script))

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        return _Pipeline(self.network)

    async def blpop(self, keys: Any, timeout: Any = 0) -> Any:  # type: ignore[override] # noqa: ASYNC109 - redis-py's
        found = await self.network.take([("LPOP", key) for key in keys], list(keys), timeout)
        return next(([key, each] for key, each in zip(keys, found, strict=False) if each is not None), None)

    async def blmove(self, first: str, second: str, timeout: float, *ends: str) -> Any:  # type: ignore[override] # noqa: ASYNC109
        (found,) = await self.network.take([("LMOVE", first, second, *ends)], [first], timeout)
        return found

    async def aclose(self, *_: Any, **__: Any) -> None: ...

    def __del__(self, *_: Any) -> None: ...


class _Pipeline(Client):
    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._stack: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self._stack.append((args, options))
        return self

    async def execute(self, *_: Any, **__: Any) -> list[Any]:
        stack, self._stack = self._stack, []
        replies = await self.network.run([args for args, _ in stack]) if stack else []
        return [_answer(args[0], reply, options) for (args, options), reply in zip(stack, replies, strict=True)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


def _answer(name: Any, reply: Any, options: dict[str, Any]) -> Any:
    if isinstance(reply, ResponseError):
        if str(reply).startswith("NOSCRIPT"):
            raise NoScriptError(str(reply))
        raise reply
    options.pop("keys", None)  # for redis-py's cache
    callback = _CALLBACKS.get(name.upper())
    return callback(reply, **options) if callback else reply
