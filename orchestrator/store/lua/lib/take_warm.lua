-- Taking a warm agent out of the pool.
-- include: clock, nodes, policy, records

-- Returns the agent and {state, lastBeat, node, pid, startTicks} when it is warm and its heartbeat recent. One that is
-- silent has left the pool now; its deadline does the rest. `listed`: its node may list it as warm.
local function if_recent(id, listed)
  local fields = redis.call('HMGET', 'agent:' .. id, 'state', 'lastBeat', 'node', 'pid', 'startTicks')
  if listed and fields[3] then redis.call('SREM', 'node:' .. fields[3] .. ':warm', id) end
  local silence = NOW - tonumber(fields[2] or 0)
  -- guard: silent-not-assigned
  if fields[1] == 'ready' and silence <= policy_ms('heartbeat_timeout_seconds') then return id, fields end
end

-- Take the one of the preferred node if it has any, else of the node with the smallest load. Late nodes come last, full
-- ones are left out. Returns what `if_recent` does.
local function take_warm(prefer)
  local nodes = {}
  if #nodes_in_service() > 1 or (IN_SERVICE[1] and IN_SERVICE[1].max) then
    for _, node in ipairs(nodes_in_service()) do
      local load = load_of(node)
      if has_capacity(node, load) then
        -- guard: affinity
        -- guard: late-node
        -- guard: least-load
        nodes[#nodes + 1] = {id = node.id, rank = (node.late and 4 or node.id == prefer and 0 or 2) + load,
          warm = redis.call('SCARD', 'node:' .. node.id .. ':warm')}
      end
    end
    table.sort(nodes, function(a, b) return a.rank < b.rank or (a.rank == b.rank and a.warm > b.warm) end)
    for _, node in ipairs(nodes) do
      local id = redis.call('SPOP', 'node:' .. node.id .. ':warm')
      while id do
        if redis.call('SREM', 'pool:ready', id) == 1 then
          local agent, fields = if_recent(id)
          if agent then return agent, fields end
        end
        id = redis.call('SPOP', 'node:' .. node.id .. ':warm')
      end
    end
    -- Agents whose node has no record, or has not listed them.
    local full = {}
    for _, node in ipairs(nodes_in_service()) do full[node.id] = not has_capacity(node) end
    for _, id in ipairs(redis.call('SMEMBERS', 'pool:ready')) do
      if not full[get('agent:' .. id, 'node') or ''] then
        redis.call('SREM', 'pool:ready', id)
        local agent, fields = if_recent(id, true)
        if agent then return agent, fields end
      end
    end
    return nil
  end
  while true do
    local id = redis.call('SPOP', 'pool:ready')
    if not id then return nil end
    local agent, fields = if_recent(id, true)
    if agent then return agent, fields end
  end
end
