-- Have one node, or each, check the pool. The list of a node that no longer listens expires.
-- include: clock, wake_seconds
local function wake(node)
  for _, id in ipairs(node and {node} or redis.call('SMEMBERS', 'nodes')) do
    local key = 'pool:wake:' .. id
    if redis.call('LLEN', key) == 0 then
      redis.call('RPUSH', key, NOW)
      redis.call('EXPIRE', key, WAKE_SECONDS)
    end
  end
end
