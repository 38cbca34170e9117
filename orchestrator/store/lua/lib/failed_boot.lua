-- Fields of a session's event whose reason is the last failed boot: the agent whose log says more.
local function failed_boot_fields(reason)
  local cause, agent = redis.call('GET', 'pool:boot_error'), redis.call('GET', 'pool:boot_error:agent')
  if not cause or not agent or string.sub(reason, 1, #cause) ~= cause then return {} end
  return {'failedAgentId', agent}
end
