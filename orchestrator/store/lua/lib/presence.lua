-- The user of a session comes and goes. Further arguments are fields of the session's event.
-- include: deadlines, events, policy, records, sessions
local function user_joined(id, ...)
  if session_state(id) ~= 'active' then
    move_session(id, 'active')
  elseif redis.call('ZREM', 'deadlines', 'gone|' .. id) == 1 then
    append_event(id, 'user_back', ...)
  end
end

-- `lost`: the user has not left but lost the connection. LiveKit reports that after some 20 s, which count.
local function user_left(id, lost, ...)
  clear_deadlines(id, 'user')
  -- guard: lost-connection
  set_deadline_if_none('gone', id, policy_ms('user_gone_seconds') / (lost and 4 or 1))
  redis.call('HSET', 'session:' .. id, 'userLost', lost and 1 or 0)
  append_event(id, lost and 'user_lost' or 'user_left', ...)
end
