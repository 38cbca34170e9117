-- Mark the warm and booting agents of a node as running older code: they are replaced one by one, so that the pool stays full.
--
-- KEYS  none
-- ARGV  1.. ids of the agents that live on the node
-- Returns how many were marked
--
-- pool:stale set, agent:{id} hash, pool:wake:{node} list
-- include: records, wake
local marked = 0
for _, id in ipairs(ARGV) do
  local state = agent_state(id)
  -- guard: stale-agents
  if state == 'ready' or state == 'starting' then marked = marked + redis.call('SADD', 'pool:stale', id) end
end
wake()
return marked
