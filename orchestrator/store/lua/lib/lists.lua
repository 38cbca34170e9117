-- The lists of the records in a state: sets, one sorted set (a queue), and a set of each node.
local NONE = {}

-- Move a record from the lists of one state to those of another; `from` is nil for a new record. `score`: its place in the
-- queue of the state, where that has one.
local function change_lists(id, from, to, node, score)
  local entered = {}
  for _, set in ipairs(to.sets or NONE) do entered[set] = true end
  for _, set in ipairs(from and from.sets or NONE) do
    -- guard: leave-pool
    if entered[set] then entered[set] = nil else redis.call('SREM', set, id) end
  end
  for set in pairs(entered) do redis.call('SADD', set, id) end
  for _, set in ipairs(to.leaves or NONE) do redis.call('SREM', set, id) end
  if from and from.queue then redis.call('ZREM', from.queue, id) end
  if to.queue then redis.call('ZADD', to.queue, score, id) end
  local before = from and from.nodeSet
  if node and before and before ~= to.nodeSet then redis.call('SREM', 'node:' .. node .. ':' .. before, id) end
  -- guard: node-sets
  if node and to.nodeSet and before ~= to.nodeSet then redis.call('SADD', 'node:' .. node .. ':' .. to.nodeSet, id) end
end
