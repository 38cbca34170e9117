-- Give a session that has just become starting a warm agent; without one it waits for the next. Returns whether it has one.
-- The session that started first is served first: a call that lost its agent comes before any that has not begun.
-- include: affinity, binding, take_warm, wake
local function serve_or_wait(session)
  local fields = redis.call('HMGET', 'session:' .. session, 'affinity', 'userId')
  local warm = take_warm(fields[1] and remembered_node(fields[2]))
  wake()
  if warm then bind(session, warm, 1) end
  return warm ~= nil
end
