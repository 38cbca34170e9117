-- The warm agents: pool:ready holds all of them and is what counts; node:{id}:warm finds those of one node.
local function join_pool(id, node)
  redis.call('SADD', 'pool:ready', id)
  if node then redis.call('SADD', 'node:' .. node .. ':warm', id) end
end
local function leave_pool(id, node)
  redis.call('SREM', 'pool:ready', id)
  if node then redis.call('SREM', 'node:' .. node .. ':warm', id) end
end
