-- The agent is in its session's room.
--
-- KEYS  none
-- ARGV  1 agent id
-- Returns its session id
--
-- agent:{id} hash (joinedAt), session:{id} hash (joinedAt), session:{id}:events stream, deadlines zset
local id = ARGV[1]
local session = get('agent:' .. id, 'sessionId')
if not session or get('session:' .. session, 'agentId') ~= id then refuse('agent', id, agent_state(id), 'running') end
met(session, 'join')
-- One that has registered again counts as running already.
if agent_state(id) == 'running' then return session end
move_agent(id, 'running', 'joinedAt', NOW)
redis.call('HSETNX', 'session:' .. session, 'joinedAt', NOW)
record(session, 'agent_joined', 'agentId', id)
return session
