-- A warm agent serves a waiting session before it joins the pool.
-- include: agent_rows, binding, lists, nodes, placement, reason_drained, records, retire

-- Bind it to the session that has waited longest, if one may begin on its node. Returns the session, or nil.
-- `prewarmed`: 1 when the agent was warm before, 0 when it has just booted.
local function serve_waiting(agent, node, prewarmed)
  local draining = node and redis.call('SISMEMBER', 'nodes:draining', node) == 1
  local waiting = redis.call('ZRANGE', 'session:unbound', 0, 0)[1]
  -- A call on a draining node ends soon: it begins there only if no other node is left.
  -- guard: full-node-boots
  if waiting and not (draining and any_node_in_service()) and may_serve_on(node) then
    bind(waiting, agent, prewarmed)
    return waiting
  end
end

-- Return a warm agent to the pool after it had left, or was lost. Returns its state.
local function return_to_pool(id)
  local node = get('agent:' .. id, 'node')
  if serve_waiting(id, node, 1) then return 'assigned' end
  if node and redis.call('SISMEMBER', 'nodes:draining', node) == 1 then
    retire(id, DRAINED)
    return 'stopping'
  end
  change_lists(id, nil, agent_row('ready'), node)
  return 'ready'
end
