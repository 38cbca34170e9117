-- The node that served a user last, for users who asked to be served by it again.
-- include: policy
local function remember_node(user, node)
  if node then redis.call('SET', 'user:node:' .. user, node, 'EX', policy_expiry('session_keep_seconds')) end
end
local function remembered_node(user) return redis.call('GET', 'user:node:' .. user) or nil end
