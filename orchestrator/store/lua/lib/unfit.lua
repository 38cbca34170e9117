-- Take an unfit agent out of service; its session, if any, gets another agent at once.
-- Returns its state before, or '' when it is leaving or gone.
-- include: agents, reasons, takeover
local function retire_unfit(id, why)
  local fields = redis.call('HMGET', 'agent:' .. id, 'state', 'sessionId')
  local state, session = fields[1], fields[2]
  if not state or state == 'exited' or state == 'stopping' then return '' end
  move_agent(id, 'stopping', reason_fields('reason', why))
  if session then replace_agent(session, id, why) end
  return state
end
