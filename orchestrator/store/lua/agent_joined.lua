-- The agent is in its session's room.
--
-- KEYS  none
-- ARGV  1 agent id
-- Returns its session id
--
-- agent:{id} hash (joinedAt), session:{id} hash (joinedAt, takeoverAt, refused), session:{id}:events stream, deadlines zset
-- histogram:{name} hash, recent:{name} list
-- include: agents, alerts, clock, deadlines, events, histograms, illegal_move, records
local id = ARGV[1]
local session = get('agent:' .. id, 'sessionId')
if not session or get('session:' .. session, 'agentId') ~= id then illegal_move('agent', id, agent_state(id), 'running') end
clear_deadlines(session, 'join', 'room')
redis.call('HDEL', 'session:' .. session, 'refused')
-- One that has registered again counts as running already.
if agent_state(id) == 'running' then return session end
move_agent(id, 'running')
redis.call('HSETNX', 'session:' .. session, 'joinedAt', NOW)
observe('join', ms_since(get('agent:' .. id, 'assignedAt')))
-- The takeover is over: the user hears an agent again.
local lost_at = get('session:' .. session, 'takeoverAt')
if lost_at then
  redis.call('HDEL', 'session:' .. session, 'takeoverAt')
  observe('takeover', ms_since(lost_at))
  enqueue_alert('takeover.finished', session .. '_' .. lost_at, {sessionId = session, agentId = id, lasted = ms_since(lost_at) / 1000})
end
append_event(session, 'agent_joined', 'agentId', id)
return session
