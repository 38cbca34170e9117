-- Claim an announced agent for a node, once: a redelivered spawn finds it claimed.
--
-- KEYS  agent:{id}
-- ARGV  1 agent id  2 node id
-- Returns claimed | taken | gone
--
-- agent:{id}  hash  gets node and spawnedAt
local fields = redis.call('HMGET', KEYS[1], 'state', 'node')
if fields[1] ~= 'starting' then return 'gone' end
if fields[2] then return 'taken' end
redis.call('HSET', KEYS[1], 'node', ARGV[2], 'spawnedAt', NOW)
return 'claimed'
