"""The Lua scripts on a real Valkey, by a clock that tests move."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import redis

from orchestrator.store.loader import sources
from tests.support.model.dump import CLOCK, Dump
from tests.support.model.previous import PREVIOUS_NAMES, as_previous_release

#: Put in front of every script: the clock is a key, and each script runs a quarter of a millisecond after the one
#: before (several run in one millisecond, as in production). Random choices depend on the clock, so that a sequence
#: is repeatable.
BENCH = f"""
local real, redis = redis, setmetatable({{}}, {{__index = redis}})
function redis.call(command, key, ...)
  if command == 'TIME' then
    local us = real.call('INCRBY', '{CLOCK}', 250)
    return {{math.floor(us / 1e6), us % 1e6}}
  elseif command == 'SPOP' or command == 'SRANDMEMBER' then
    local members = real.call('SMEMBERS', key)
    if #members == 0 then return false end
    table.sort(members)
    local found = members[tonumber(real.call('GET', '{CLOCK}')) / 250 % #members + 1]
    if command == 'SPOP' then real.call('SREM', key, found) end
    return found
  end
  if key == nil then return real.call(command) end
  return real.call(command, key, ...)
end
"""
_DUMP = """
local out = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  local value
  if kind == 'hash' then value = redis.call('HGETALL', key)
  elseif kind == 'string' then value = redis.call('GET', key)
  elseif kind == 'set' then value = redis.call('SMEMBERS', key)
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
  else value = redis.call('XLEN', key) end
  out[#out + 1] = {key, kind, value, redis.call('TTL', key) >= 0}
end
local fresh = {}
for _, entry in ipairs(redis.call('XRANGE', 'events', ARGV[1], '+')) do fresh[#fresh + 1] = entry end
return cjson.encode({out, fresh})
"""


class Refused(Exception):
    """A script refused an illegal move."""


#: Microseconds of the clock at the beginning of every sequence.
BEGINNING = 1_800_000_000_000_000


class Bench:
    """The scripts on a real Valkey, synchronously. Their clock is a key, so that time passes when a test says so.

    `previous`: the scripts of the release before; about half of the calls run one of them, as during a deploy.
    """

    def __init__(
        self,
        url: str,
        mutate: Callable[[str, str], str] = lambda _, source: source,
        previous: Mapping[str, str] | None = None,
    ) -> None:
        self.redis: Any = redis.Redis.from_url(url, decode_responses=True)
        self._scripts = self._registered({name: mutate(name, source) for name, source in sources().items()})
        self._previous = self._registered(previous or {})
        self._dump = self.redis.register_script(_DUMP)
        self._seen = "-"

    def _registered(self, found: Mapping[str, str]) -> dict[str, Any]:
        return {name: self.redis.register_script(BENCH + source) for name, source in found.items()}

    def clear(self, *, reset_clock: bool = True) -> None:
        """Empty the database. `reset_clock`: set the clock back too, so that every sequence begins at the same time."""
        now = BEGINNING if reset_clock else int(self.redis.get(CLOCK))
        self.redis.flushdb()
        self.redis.set(CLOCK, now)
        self._seen = "-"

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self.redis.incrby(CLOCK, ms * 1000)

    def call(self, name: str, *args: str | int, keys: Iterable[str] = ()) -> Any:
        """Run one script. Raises `Refused`; any other error is a fault of the script."""
        previous = self._previous.get(PREVIOUS_NAMES.get(name, name))
        # Depends on the clock, so that a sequence is repeatable. Releases do not alternate: scripts may do so too.
        coin = previous and int(self.redis.get(CLOCK)) // 250 * 2_654_435_761 % 2**32 >> 31
        try:
            if coin and previous:
                names, arguments = as_previous_release(name, keys, args)
                return previous(keys=names, args=arguments)
            return self._scripts[name](keys=list(keys), args=list(args))
        except redis.ResponseError as failure:
            if "ILLEGAL" in str(failure):
                raise Refused(str(failure)) from None
            raise AssertionError(f"{name}{args}: {failure}") from failure

    def dump(self) -> Dump:
        """Return the whole database."""
        rows, events = json.loads(self._dump(args=[self._seen]))
        values: dict[str, Any] = {}
        for key, kind, value, _ in rows:
            if kind == "hash":
                values[key] = dict(zip(value[::2], value[1::2], strict=True))
            elif kind == "zset":
                values[key] = {name: float(score) for name, score in zip(value[::2], value[1::2], strict=True)}
            else:
                values[key] = set(value) if kind == "set" else value
        if events:
            self._seen = f"({events[-1][0]}"
        found = [(i, dict(zip(flat[::2], flat[1::2], strict=True))) for i, flat in events]
        return Dump(values, {key for key, _, _, kept in rows if kept}, found)
