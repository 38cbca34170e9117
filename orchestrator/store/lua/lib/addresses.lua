-- How many live sessions an address or a network has, and how many of those are in the queue.
-- include: live_session, records
local function sessions_of_address(address)
  local key, live, queued = 'address:sessions:' .. address, 0, 0
  for _, session in ipairs(redis.call('SMEMBERS', key)) do
    local state = session_state(session)
    if LIVE_SESSION[state] then
      live = live + 1
      if state == 'queued' then queued = queued + 1 end
    else
      redis.call('SREM', key, session)
    end
  end
  return live, queued
end
