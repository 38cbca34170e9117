-- Take the warm agents beyond the target out of the pool, those on older code first. Never touches one that is bound.
--
-- KEYS  none
-- ARGV  none
-- Returns the ids of the agents to stop; they are in state stopping
--
-- pool:target string, pool:ready set, pool:stale set, agent:{id} hash, agent:{id}:inbox list
-- Whoever has lost its record comes back by itself, when it lives.
for _, id in ipairs(redis.call('SMEMBERS', 'pool:ready')) do
  if not agent_state(id) then redis.call('SREM', 'pool:ready', id) end
end
local stopped = {}
local target = tonumber(redis.call('GET', 'pool:target'))
if not target then return stopped end  -- Redis has lost it, and the living still register
local surplus = redis.call('SCARD', 'pool:ready') - target
for i = 1, surplus do
  local id = redis.call('SINTER', 'pool:ready', 'pool:stale')[1] or redis.call('SRANDMEMBER', 'pool:ready')
  dismiss(id, 'pool_shrunk')
  stopped[i] = id
end
return stopped
