-- Take an agent out of service and have it leave.
-- include: agents, reasons
local function retire(id, why)
  move_agent(id, 'stopping', reason_fields('reason', why))
  redis.call('RPUSH', 'agent:' .. id .. ':inbox',
    cjson.encode({type = 'stop', reason = why.text, code = why.code, params = why.params}))
end
