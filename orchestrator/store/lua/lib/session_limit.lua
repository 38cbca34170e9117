-- How many sessions there are at once, and how many there may be.
-- include: nodes, policy

-- Sessions that take a place: all that live but do not wait in the queue.
local function served_sessions()
  return redis.call('SCARD', 'session:starting') + redis.call('SCARD', 'session:ready')
    + redis.call('SCARD', 'session:active')
end

-- MAX_SESSIONS, or less when that is more than all nodes can serve (NODE_SESSIONS). The sessions of draining nodes are
-- added: they take no place of the other nodes.
local function max_sessions()
  local max, sum = policy('max_sessions'), 0
  for _, node in ipairs(nodes_in_service()) do
    if not node.max then return max end
    sum = sum + node.max
  end
  if sum == 0 then return max end
  for _, id in ipairs(draining_nodes()) do
    sum = sum + redis.call('SCARD', 'node:' .. id .. ':busy')
  end
  return math.min(max, sum)
end
