-- Ending sessions.
-- include: alerts, boot_codes, busy_agent, clock, failing_calls, failure_codes, forgetting, outcomes, policy, queue
-- include: reason_agent_lost, reasons, records, retire, sessions, wind_down

-- A session is over: remove it from its user's and its address's sessions.
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
local function close_session(id, to, why)
  local key = 'session:' .. id
  local keep = policy_expiry('session_keep_seconds')
  local fields = redis.call('HMGET', key, 'userId', 'agentId', 'readyAt', 'roomName', 'takeoverAt', 'client', 'network')
  if fields[5] then
    enqueue_alert('takeover.failed', id .. '_' .. fields[5], {sessionId = id, reason = why.text, reasonCode = why.code})
    redis.call('HDEL', key, 'takeoverAt')
  end
  -- The operator finds details in the log of the agent that did not boot.
  local failed = BOOT_CODES[why.code] and why.params.agentId
  move_session(id, to, reason_fields('reason', why, unpack(failed and {'failedAgentId', failed} or {})))
  if to == 'error' then count_failing_call(id, why)
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
  if agent and BUSY[agent_state(agent)] then
    retire(agent, why)
    allow_wind_down(agent)
  end
  redis.call('EXPIRE', key, keep)
  redis.call('EXPIRE', key .. ':events', keep)
  -- A room that we did not name may have its next session already.
  local room = 'session:room:' .. (fields[4] or '')
  if redis.call('GET', room) == id then redis.call('EXPIRE', room, keep) end
  -- guard: record-count
  keep_last('session:over', id, policy('session_keep_count'), drop_session)
end

-- End a session and admit the next from the queue.
local function end_session(id, to, why)
  close_session(id, to, why)
  -- guard: promote
  admit_from_queue()
end

-- How an agent ended, as the reason of its session's failure.
local function as_failure(cause)
  if FAILURE_CODES[cause.code] then return cause end
  local name, value = 'cause', cause.code
  if value == '' then name, value = 'detail', cause.text end
  return {code = AGENT_LOST.code, params = with_param(cause, name, value).params, text = AGENT_LOST.code .. ': ' .. cause.text}
end
