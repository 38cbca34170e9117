-- Whether another node can continue a call of a stopping node.
-- include: boot_nodes, nodes

-- Whether one more waiting session would get an agent: from a node with capacity that has a warm one or can boot one.
-- `but`: a node that does not count.
local function can_serve_one_more(but)
  local places = 0
  for _, node in ipairs(nodes_in_service()) do
    local able = redis.call('SCARD', 'node:' .. node.id .. ':warm') > 0 or (node.host and not low_on_memory(node))
    if able and node.id ~= but then
      if not node.max then return true end
      places = places + math.max(0, node.max - redis.call('SCARD', 'node:' .. node.id .. ':busy'))
    end
  end
  return places > redis.call('ZCARD', 'session:unbound')
end
