-- Claim an announced agent for a node, once: a redelivered spawn finds it claimed.
--
-- KEYS  agent:{id}
-- ARGV  1 agent id  2 node id
-- Returns claimed | taken | gone
--
-- agent:{id}  hash  gets node and spawnedAt       deadlines  zset       pool:breaker  hash
-- session:unbound  zset       session:{id}:events  stream
local fields = redis.call('HMGET', KEYS[1], 'state', 'node')
if fields[1] ~= 'starting' then return 'gone' end
if fields[2] then return 'taken' end
-- Only the breaker's own probe boots while it is open.
if circuit_open() and string.sub(ARGV[1], 1, 8) == 'session_' then
  exit_agent(ARGV[1], 'not spawned: agents do not boot (' .. get('pool:breaker', 'cause') .. ')')
  return 'gone'
end
redis.call('HSET', KEYS[1], 'node', ARGV[2], 'spawnedAt', NOW)
expect('boot', ARGV[1], policy('bootMs') or 20000)
boot_phase(ARGV[1], 'claimed')
return 'claimed'
