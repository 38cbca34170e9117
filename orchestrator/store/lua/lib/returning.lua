-- A warm agent is there again: it serves the session that has waited longest, or joins the pool. Returns its state.
-- include: binding, nodes, placement, pool_members, records, retire
local function return_to_pool(id)
  local node = get('agent:' .. id, 'node')
  local draining = node and redis.call('SISMEMBER', 'nodes:draining', node) == 1
  local waiting = redis.call('ZRANGE', 'session:unbound', 0, 0)[1]
  -- A call on a draining node soon ends: it begins there only when no other node is left.
  if waiting and not (draining and any_node_in_service()) and may_serve_on(node) then bind(waiting, id, 1)
  elseif draining then retire(id, 'node_draining')
  else join_pool(id, node) end
  return agent_state(id)
end
