-- Before the call began, an agent is replaced this often.
-- include: alerts, clock, closing, events, failing_calls, policy, reason_found_dead, reason_handed_over, reasons, records
-- include: serving, sessions
local MAX_REPLACEMENTS = 2

-- The agent of a session cannot continue: give the session another one in the same room, or end it.
-- Returns replaced | waiting | error, or '' when the session has another agent or is over.
local function replace_agent(session, agent, cause)
  local key = 'session:' .. session
  local fields = redis.call('HMGET', key, 'agentId', 'status', 'activeAt')
  -- guard: one-agent
  if fields[1] ~= agent or (fields[2] ~= 'ready' and fields[2] ~= 'active') then return '' end
  cause = with_param(cause, 'agentId', agent)
  redis.call('HSET', key, reason_fields('cause', cause))
  count_failing_call(session, cause)
  -- Before the call began the user has noticed nothing: that is a replacement, and does not count as a takeover.
  local name, max = 'replacement', MAX_REPLACEMENTS
  if fields[3] then name, max = 'takeover', policy('takeover') == 0 and 0 or policy('max_takeovers') end
  -- An agent that was dead before it was handed out has not failed this session.
  local count = tonumber(get(key, name .. 's') or 0) + 1
  local handed_over = cause.code == HANDED_OVER.code
  if handed_over or cause.code == FOUND_DEAD.code then
    count = count - 1
  -- guard: takeover-limit
  elseif count > max then
    end_session(session, 'error', as_failure(cause))
    return 'error'
  end
  if count > 0 then redis.call('HSET', key, name .. 's', count) end
  local counted = 'total_' .. name .. 's'
  if handed_over then
    counted = 'total_handovers'
    -- Before the call began there is nothing to continue: the next agent greets.
    if fields[3] then redis.call('HINCRBY', key, 'handovers', 1) end
  -- The death of an agent on its way to a call is part of the takeover that it was to end.
  elseif name == 'takeover' and redis.call('HSETNX', key, 'takeoverAt', NOW) == 1 then
    enqueue_alert('takeover.started', session .. '_' .. NOW, {
      sessionId = session, agentId = agent, cause = cause.text, causeCode = cause.code})
  end
  redis.call('HINCRBY', 'pool:stats', counted, 1)
  append_event(session, name, 'agentId', agent, reason_fields('cause', cause))
  move_session(session, 'starting')
  return serve_or_wait(session) and 'replaced' or 'waiting'
end
