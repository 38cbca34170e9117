-- Ending sessions.
-- include: alerts, busy_agent, clock, failed_boot, failing_calls, forgetting, outcomes, policy, queue, records
-- include: retire, sessions

-- A session is over: nothing counts it any more as one of its user and of its address.
local function release_owner(id, user, addresses)
  redis.call('SREM', 'user:sessions:' .. user, id)
  for _, address in ipairs(addresses) do
    redis.call('SREM', 'address:sessions:' .. address, id)
  end
  if redis.call('GET', 'session:user:' .. user) == id then
    local other = redis.call('SRANDMEMBER', 'user:sessions:' .. user)
    -- guard: user-record
    if other then redis.call('SET', 'session:user:' .. user, other) else redis.call('DEL', 'session:user:' .. user) end
  end
end

-- Move a live session to `ended` or `error`, retire its agent, and let its record expire. The next node that processes
-- deadlines deletes its room, and again until that has worked.
local function close_session(id, to, reason)
  local key = 'session:' .. id
  local keep = policy_expiry('session_keep_seconds')
  local fields = redis.call('HMGET', key, 'userId', 'agentId', 'readyAt', 'roomName', 'takeoverAt', 'client', 'network')
  if fields[5] then
    enqueue_alert('takeover.failed', id .. '_' .. fields[5], {sessionId = id, reason = reason})
    redis.call('HDEL', key, 'takeoverAt')
  end
  move_session(id, to, 'reason', reason, unpack(failed_boot_fields(reason)))
  if to == 'error' then count_failing_call(id, reason)
  elseif not get(key, 'failing') and answered(id) then redis.call('DEL', 'pool:failing') end
  redis.call('DEL', key .. ':payload', key .. ':conversation')
  local addresses = {}
  for i = 6, 7 do
    if fields[i] then addresses[#addresses + 1] = fields[i] end
  end
  release_owner(id, fields[1], addresses)
  count_outcome(to)
  if fields[3] then
    -- Mean length of about the last ten sessions, from which the wait in the queue is estimated.
    local length = NOW - tonumber(fields[3])
    local mean = tonumber(get('pool:stats', 'session_ms_mean') or length)
    redis.call('HSET', 'pool:stats', 'session_ms_mean', string.format('%.1f', mean * 0.9 + length * 0.1))
  end
  local agent = fields[2]
  if agent and BUSY[agent_state(agent)] then retire(agent, reason) end
  redis.call('EXPIRE', key, keep)
  redis.call('EXPIRE', key .. ':events', keep)
  -- A room that we did not name may have its next session already.
  local room = 'session:room:' .. (fields[4] or '')
  if redis.call('GET', room) == id then redis.call('EXPIRE', room, keep) end
  -- guard: record-count
  keep_last('session:over', id, policy('session_keep_count'), drop_session)
end

-- End a session; its place goes to the queue.
local function end_session(id, to, reason)
  close_session(id, to, reason)
  -- guard: promote
  admit_from_queue()
end

-- The cause of an agent's end as a session's reason: it starts with its kind.
local function as_reason(cause)
  return string.match(cause, '^%a+_%a+: ') and cause or ('agent_lost: ' .. cause)
end
