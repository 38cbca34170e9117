-- Take an agent out of service and tell it to leave.
-- include: agents
local function retire(id, reason)
  move_agent(id, 'stopping', 'reason', reason)
  redis.call('RPUSH', 'agent:' .. id .. ':inbox', cjson.encode({type = 'stop', reason = reason}))
end
