-- Serve the sessions that wait for an agent, when there are warm ones, then the queue while there is capacity.
-- include: binding, policy, records, serving, session_limit, sessions, take_warm, warm_capacity
local function admit_from_queue()
  local max = policy_written() and max_sessions()
  if not max then return end
  for _, session in ipairs(redis.call('ZRANGE', 'session:unbound', 0, -1)) do
    if session_state(session) then
      local warm = take_warm()
      if not warm then break end
      bind(session, warm, 1)
    end
  end
  while served_sessions() < max do
    if redis.call('EXISTS', 'pool:memory_low') == 1 and not has_warm_capacity() then return end
    local head = redis.call('ZRANGE', 'session:queued', 0, 0)[1]
    if not head then return end
    move_session(head, 'starting')
    serve_or_wait(head)
  end
end
