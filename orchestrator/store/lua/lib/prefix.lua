-- Stands in front of a script where REDIS_PREFIX is set, after the constant PREFIX: the rest names keys as it would without
-- one. KEYS come with the prefix, because Redis's access rules check them.
-- A command that is not listed here is refused: which of its arguments are keys is unknown.
local server, KEYLESS, MANY = redis, {TIME = true}, {DEL = true, EXISTS = true, SINTER = true, SUNION = true}
local FIRST = {}
for name in string.gmatch('EXPIRE GET HDEL HGET HGETALL HINCRBY HMGET HSET HSETNX INCR INCRBY LLEN LPOP LPUSH LRANGE '
    .. 'LREM LTRIM PTTL RPUSH SADD SCARD SET SETRANGE SISMEMBER SMEMBERS SPOP SRANDMEMBER SREM XADD ZADD ZCARD '
    .. 'ZRANGE ZRANGEBYSCORE ZRANK ZREM ZSCORE', '%u+') do FIRST[name] = true end
local redis = {call = function(name, key, ...)
  -- guard: key-prefix
  if FIRST[name] then return server.call(name, PREFIX .. key, ...) end
  if KEYLESS[name] then return server.call(name) end
  if not MANY[name] then error({err = 'which arguments of ' .. name .. ' are keys is not known to REDIS_PREFIX'}) end
  local names = {key, ...}
  for i = 1, #names do names[i] = PREFIX .. names[i] end
  return server.call(name, unpack(names))
end}
local given, KEYS = KEYS, {}
for i = 1, #given do KEYS[i] = string.sub(given[i], #PREFIX + 1) end
