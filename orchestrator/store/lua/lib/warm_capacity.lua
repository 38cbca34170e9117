-- Whether there is a warm agent that can be handed out.
-- include: nodes
local function has_warm_capacity()
  local bounded = false
  for _, node in ipairs(nodes_in_service()) do
    bounded = bounded or node.max
    if has_capacity(node) and redis.call('SCARD', 'node:' .. node.id .. ':warm') > 0 then return true end
  end
  return not bounded and redis.call('SCARD', 'pool:ready') > 0
end
