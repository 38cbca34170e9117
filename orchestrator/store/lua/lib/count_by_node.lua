-- How many of a set of agents each node has.
-- include: records
local function count_by_node(set)
  local counts = {}
  for _, id in ipairs(redis.call('SMEMBERS', set)) do
    local node = get('agent:' .. id, 'node')
    if node then counts[node] = (counts[node] or 0) + 1 end
  end
  return counts
end
