-- How many warm agents there are to be, and how many of them each node has.
-- include: nodes

-- The target, but at least one on each node that can boot: when a node vanishes the others have some.
local function warm_target(nodes)
  local target = tonumber(redis.call('GET', 'pool:target') or 0)
  return target > 0 and math.max(target, #nodes) or 0
end

-- The share of each node that can boot. Nodes that cannot boot now keep what they have, up to a fair share: otherwise it
-- would be booted again a moment later.
local function pool_shares(nodes)
  local target, want, keepers = warm_target(nodes), {}, {}
  for _, node in ipairs(nodes) do want[node.id] = 0 end
  for _, node in ipairs(nodes_in_service()) do
    if not want[node.id] then keepers[#keepers + 1] = node.id end
  end
  local fair = math.floor(target / math.max(1, #nodes + #keepers))
  for _, id in ipairs(keepers) do
    want[id] = math.min(fair, redis.call('SCARD', 'node:' .. id .. ':warm'))
    target = target - want[id]
  end
  for i, node in ipairs(nodes) do
    want[node.id] = math.floor(target / #nodes) + (i <= target % #nodes and 1 or 0)
  end
  return want
end

-- What the pool lacks: its target and the sessions that wait, less the agents that are warm or booting on current code.
local function missing_agents(nodes)
  return warm_target(nodes) + redis.call('ZCARD', 'session:unbound')
    - redis.call('SCARD', 'pool:ready') - redis.call('SCARD', 'pool:starting') + redis.call('SCARD', 'pool:stale')
end

-- A warm agent of the node that is furthest above its share, nil where none is.
local function agent_above_share(want)
  local warm, one = {}, {}
  for _, id in ipairs(redis.call('SMEMBERS', 'pool:ready')) do
    local fields = redis.call('HMGET', 'agent:' .. id, 'state', 'node')
    local node = fields[2] or ''
    if fields[1] == 'ready' then
      warm[node] = (warm[node] or 0) + 1
      if not one[node] or id < one[node] then one[node] = id end
    end
  end
  local furthest, chosen = 0, nil
  for node, count in pairs(warm) do
    local above = count - (want[node] or 0)
    if above > furthest or (above == furthest and chosen and node < chosen) then furthest, chosen = above, node end
  end
  return one[chosen]
end
