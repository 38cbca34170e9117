-- Bring the lists of each node's warm and busy agents into line with the agents: an agent whose record is lost
-- would count for its node for ever.
--
-- KEYS  none
-- ARGV  none
-- Returns how many entries were wrong
--
-- nodes set, agents set, agent:{id} hash, pool:ready set, node:{id}:warm set, node:{id}:busy set
-- include: busy_agent
local warm, busy, wrong = {}, {}, 0
for _, id in ipairs(redis.call('SMEMBERS', 'agents')) do
  local fields = redis.call('HMGET', 'agent:' .. id, 'state', 'node')
  local node, state = fields[2], fields[1]
  if node and BUSY[state] then
    busy[id] = node
    wrong = wrong + redis.call('SADD', 'node:' .. node .. ':busy', id)
  elseif node and redis.call('SISMEMBER', 'pool:ready', id) == 1 then
    warm[id] = node
    wrong = wrong + redis.call('SADD', 'node:' .. node .. ':warm', id)
  end
end
for _, node in ipairs(redis.call('SMEMBERS', 'nodes')) do
  for name, right in pairs({warm = warm, busy = busy}) do
    local key = 'node:' .. node .. ':' .. name
    for _, id in ipairs(redis.call('SMEMBERS', key)) do
      -- guard: recount
      if right[id] ~= node then wrong = wrong + redis.call('SREM', key, id) end
    end
  end
end
return wrong
