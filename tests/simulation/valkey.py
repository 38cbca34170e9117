"""A real Valkey with a virtual clock: its scripts and the expiry of its keys follow the simulation's time.

A command is sent and answered while the event loop is blocked.
"""

import asyncio
import hashlib
import math
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import hiredis
from redis.exceptions import ResponseError

from tests.simulation.virtual_time import BEGINNING

#: Longer expiries use Valkey's own clock, and never happen, because no schedule is that long on either clock.
LONGEST_TTL_US = 300_000_000
_TTL = "test:ttl"
#: Around every script. Its last argument is the clock. It returns the clock, when the first of the keys whose lifetime
#: it has set expires, the lists that it pushed to, and what the script returns. A script runs a quarter of a
#: millisecond after the one before; chance is the clock's too, so that a seed always does the same.
_BEFORE = f"""
local raw, redis = redis, setmetatable({{}}, {{__index = redis}})
local clock, soonest, pushed = 0 + table.remove(ARGV), nil, {{}}
local function lives(key, us)
  if us <= {LONGEST_TTL_US} then
    raw.call('ZADD', '{_TTL}', clock + us, key)
    soonest = math.min(soonest or clock + us, clock + us)
  else
    raw.call('ZREM', '{_TTL}', key)
    raw.call('EXPIRE', key, math.floor(us / 1e6))
  end
end
function redis.call(command, key, ...)
  if command == 'TIME' then
    clock = clock + 250
    return {{math.floor(clock / 1e6), clock % 1e6}}
  elseif command == 'EXPIRE' then
    if raw.call('EXISTS', key) == 0 then return 0 end
    lives(key, tonumber((...)) * 1e6)
    return 1
  elseif command == 'PTTL' then
    if raw.call('EXISTS', key) == 0 then return -2 end
    local at = raw.call('ZSCORE', '{_TTL}', key)
    return at and math.floor((at - clock) / 1000) or raw.call('PTTL', key)
  elseif command == 'SET' then
    local given, kept, us = {{...}}, {{}}, nil
    local at = 1
    while at <= #given do
      if at > 1 and (given[at] == 'EX' or given[at] == 'PX') then
        us = tonumber(given[at + 1]) * (given[at] == 'EX' and 1e6 or 1e3)
        at = at + 2
      else
        kept[#kept + 1] = given[at]
        at = at + 1
      end
    end
    local done = raw.call('SET', key, unpack(kept))
    if done then
      if us then lives(key, us) else raw.call('ZREM', '{_TTL}', key) end
    end
    return done
  elseif command == 'XADD' then
    local given = {{...}}
    for at, each in ipairs(given) do
      if each == '*' then
        given[at] = string.format('%d-*', math.floor(clock / 1000))
        break
      end
    end
    return raw.call('XADD', key, unpack(given))
  elseif command == 'SPOP' or command == 'SRANDMEMBER' then
    local members = raw.call('SMEMBERS', key)
    if #members == 0 then return false end
    table.sort(members)
    local found = members[clock / 250 % #members + 1]
    if command == 'SPOP' then raw.call('SREM', key, found) end
    return found
  elseif command == 'LPUSH' or command == 'RPUSH' then
    pushed[#pushed + 1] = key
  end
  if key == nil then return raw.call(command) end
  return raw.call(command, key, ...)
end
local function script()
"""
_AFTER = """
end
local done, result = pcall(script)
if not done and type(result) ~= 'table' then result = {err = 'ERR ' .. result} end
return {clock, soonest or false, pushed, result}
"""
#: Delete what has expired; returns the key that expires next, and when.
_EXPIRE = f"""
local due = redis.call('ZRANGEBYSCORE', '{_TTL}', '-inf', ARGV[1])
if #due > 0 then
  redis.call('DEL', unpack(due))
  redis.call('ZREM', '{_TTL}', unpack(due))
end
return redis.call('ZRANGE', '{_TTL}', 0, 0, 'WITHSCORES')
"""
#: Commands of Python's that the lifetimes of keys or those who wait for a list must hear of: run as scripts.
_LIKE_SCRIPTS = frozenset({"SET", "EXPIRE", "LPUSH", "RPUSH"})
_LIKE_SCRIPT = "return redis.call(unpack(ARGV))"


class Valkey:
    """The simulation's interface to the server."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace", replyError=ResponseError)
        self._shas: dict[str, str] = {}
        self._asked: list[tuple[Sequence[tuple[Any, ...]], Callable[[list[Any]], None]]] = []
        self._send([("HELLO", "3")])
        self._expire = self.load(_EXPIRE, plain=True)
        self._like_script = self.load(_LIKE_SCRIPT)
        self.clear()

    def clear(self) -> None:
        """Reset the data and the clock."""
        self._asked.clear()
        self._send([("FLUSHDB",)])
        self._clock_us, self._next_expiry = 0, math.inf
        self._waiting: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)

    def lose_everything(self) -> None:
        """Be empty, as a Redis that came back without its file."""
        self._send([("FLUSHDB",)])
        self._next_expiry = math.inf

    def load(self, source: str, *, plain: bool = False) -> str:
        """Load a script; returns its digest."""
        if (sha := self._shas.get(source)) is None:
            text = source if plain else _BEFORE + source + _AFTER
            (sha,) = self._send([("SCRIPT", "LOAD", text)])
            assert sha == hashlib.sha1(text.encode()).hexdigest()
            self._shas[source] = sha
        return sha

    def run(self, commands: Sequence[tuple[Any, ...]], now: float) -> list[Any]:
        """Run commands at a moment, none of any other client's in between; an error is among the results."""
        clock = self._clock_us = max(self._clock_us, int((BEGINNING + now) * 1e6) // 250 * 250) + 250
        if self._next_expiry <= clock:
            (next_one,) = self._send([("EVALSHA", self._expire, 0, clock)])
            self._next_expiry = float(next_one[1]) if next_one else math.inf
        batch: list[tuple[Any, ...]] = []
        for command in commands:
            match command[0]:
                case "EVALSHA":
                    batch.append((*command, clock))
                    clock += 250
                case "PTTL":
                    batch += [("ZSCORE", _TTL, command[1]), command]
                case "TIME":
                    pass
                case name if name in _LIKE_SCRIPTS:
                    batch.append(("EVALSHA", self._like_script, 0, *command, clock))
                case _:
                    batch.append(command)
        replies = iter(self._send(batch) if batch else ())
        return [self._result(command[0], replies) for command in commands]

    def _result(self, name: str, replies: Iterator[Any]) -> Any:
        if name == "TIME":
            return [str(part) for part in divmod(self._clock_us, 1_000_000)]
        reply = next(replies)
        if name == "PTTL":
            left = next(replies)
            return left if reply is None or left == -2 else int((reply - self._clock_us) // 1000)
        if name == "EVALSHA" or name in _LIKE_SCRIPTS:
            return reply if isinstance(reply, ResponseError) else self._of_script(*reply)
        return reply

    def _of_script(self, clock: int, soonest: int | None, pushed: list[str], result: Any = None) -> Any:
        """Take note of what a script has done; returns its result."""
        self._clock_us = max(self._clock_us, clock)
        if soonest is not None:
            self._next_expiry = min(self._next_expiry, soonest)
        for key in pushed:
            for waiter in self._waiting.pop(key, ()):
                if not waiter.done():
                    waiter.set_result(None)
        return result

    def peek(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands that only read, without virtual time."""
        return self._send(commands)

    def peek_soon(self, commands: Sequence[tuple[Any, ...]], then: Callable[[list[Any]], None]) -> None:
        """Like `peek` without an extra round trip: the commands are sent before the next command, so they return the
        present state."""
        self._asked.append((commands, then))

    def waiter(self, keys: Iterable[str]) -> asyncio.Future[None]:
        """Return a future that is done when an element is pushed to one of these lists."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for key in keys:
            self._waiting[key].append(waiter)
        return waiter

    def _send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        asked, self._asked = self._asked, []
        batch = [*(command for some, _ in asked for command in some), *commands] if asked else commands
        self._socket.sendall(b"".join(map(hiredis.pack_command, batch)))
        reader, results = self._reader, []
        for _ in batch:
            while (reply := reader.gets()) is False:
                reader.feed(self._socket.recv(1 << 16))
            results.append(reply)
        for some, then in asked:
            then(results[: len(some)])
            del results[: len(some)]
        return results

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
