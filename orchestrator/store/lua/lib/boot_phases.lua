-- Append how far a boot is to the history of the session that waits for it: the one that the agent was announced for,
-- else the next to be served.
-- include: events, records
local function append_boot_phase(agent, phase)
  local session = get('agent:' .. agent, 'for') or agent
  if not redis.call('ZSCORE', 'session:unbound', session) then
    session = redis.call('ZRANGE', 'session:unbound', 0, 0)[1]
  end
  if session then append_event(session, 'boot', 'phase', phase, 'agentId', agent) end
end
