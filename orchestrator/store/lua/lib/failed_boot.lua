-- Why the last boot failed, for five minutes or until one works.
-- include: reasons

-- Returns the reason, with the agent whose boot failed, or nil.
local function last_failed_boot()
  local text, agent = redis.call('GET', 'pool:boot_error'), redis.call('GET', 'pool:boot_error:agent')
  if not text then return end
  -- An agent that another process impersonated has not exited yet: it was asked to leave.
  local known = agent and (recorded_reason('agent:' .. agent, 'cause') or recorded_reason('agent:' .. agent, 'reason'))
  return with_param(known or {code = '', params = {}, text = text}, 'agentId', agent or nil)
end
