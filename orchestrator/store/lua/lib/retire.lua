-- Take an agent out of service and have it leave.
-- include: agents, mail, reasons
local function retire(id, why)
  move_agent(id, 'stopping', reason_fields('reason', why))
  post(id, cjson.encode({type = 'stop', reason = why.text, code = why.code, params = why.params}))
end
