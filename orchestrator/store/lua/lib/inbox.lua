-- Put a session's payload, a JSON object, into its agent's inbox, with what its author could not know: the session's id,
-- and for a call that is taken over the conversation so far.
-- include: clock
local function send_assignment(agent, session, payload)
  local fields = redis.call('HMGET', 'session:' .. session, 'createdAt', 'takeovers', 'handovers')
  local turns = redis.call('LRANGE', 'session:' .. session .. ':conversation', 0, -1)
  redis.call('RPUSH', 'agent:' .. agent .. ':inbox', '{"sessionId":"' .. session .. '","createdAt":'
    .. (fields[1] or NOW) .. ',"takeovers":' .. (fields[2] or 0) + (fields[3] or 0)
    -- guard: conversation
    .. ',"conversation":[' .. table.concat(turns, ',') .. '],' .. string.sub(payload, 2))
end
