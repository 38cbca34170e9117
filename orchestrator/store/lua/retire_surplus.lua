-- Take the warm agents beyond the target out of the pool: those on older code first, then those of the nodes that have more
-- than their share. Never touches one that is bound.
--
-- KEYS  none
-- ARGV  none
-- Returns the ids of the agents to stop; they are in state stopping
--
-- pool:target string, pool:ready set, pool:stale set, agent:{id} hash, agent:{id}:inbox list
-- nodes set, nodes:draining set, node:{id} hash, node:{id}:warm set
-- A living agent without a record registers again by itself.
-- include: boot_nodes, pool_shares, reason_pool_shrunk, records, retire
for _, id in ipairs(redis.call('SMEMBERS', 'pool:ready')) do
  if not agent_state(id) then redis.call('SREM', 'pool:ready', id) end
end
local stopped = {}
if redis.call('EXISTS', 'pool:target') == 0 then return stopped end  -- Redis has lost it, and the living still register
local nodes = nodes_able_to_boot()
local want = pool_shares(nodes)
local surplus = redis.call('SCARD', 'pool:ready') - warm_target(nodes)
for i = 1, surplus do
  -- guard: shrink-pool-only
  local id = redis.call('SINTER', 'pool:ready', 'pool:stale')[1] or agent_above_share(want)
  retire(id, POOL_SHRUNK)
  stopped[i] = id
end
return stopped
