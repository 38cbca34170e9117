-- Bind an agent that is warm, or has just booted, to a session that waits for one (starting).
-- include: affinity, agents, clock, histograms, inbox, sessions
local function bind(session, agent, prewarmed)
  local key = 'session:' .. session
  local fields = redis.call('HMGET', 'agent:' .. agent, 'pid', 'node')
  local before = redis.call('HMGET', key, 'agentIds', 'readyAt', 'createdAt', 'affinity', 'userId', 'takeovers', 'handovers')
  if before[4] then remember_node(before[5], fields[2]) end
  local agents = before[1] and (before[1] .. ',' .. agent) or agent
  if not before[2] then observe('start:wait', ms_since(before[3])) end
  move_agent(agent, 'assigned', 'sessionId', session)
  move_session(session, 'ready', 'agentId', agent, 'agentPid', fields[1] or '', 'node', fields[2] or '',
    'agentIds', agents, 'prewarmed', prewarmed)
  local payload = redis.call('GET', key .. ':payload')
  if payload then
    send_assignment(agent, session, payload, before[3] or NOW, (before[6] or 0) + (before[7] or 0),
      redis.call('LRANGE', key .. ':conversation', 0, -1))
  end
end
