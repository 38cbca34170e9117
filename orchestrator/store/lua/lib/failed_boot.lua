-- Why the last boot failed, for five minutes or until one works.
-- include: reasons

-- Returns the reason, said of the agent whose boot it was, or nil.
local function last_failed_boot()
  local text, agent = redis.call('GET', 'pool:boot_error'), redis.call('GET', 'pool:boot_error:agent')
  if not text then return end
  -- One that another process claimed to be has not exited yet: it was told to leave.
  local known = agent and (recorded_reason('agent:' .. agent, 'cause') or recorded_reason('agent:' .. agent, 'reason'))
  return with_param(known or {code = '', params = {}, text = text}, 'agentId', agent or nil)
end
