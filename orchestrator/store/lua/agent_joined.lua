-- The agent is in its session's room.
--
-- KEYS  none
-- ARGV  1 agent id
-- Returns its session id
--
-- agent:{id} hash, session:{id} hash (joinedAt), session:{id}:events stream
local id = ARGV[1]
local session = redis.call('HGET', 'agent:' .. id, 'sessionId')
move_agent(id, 'running')
redis.call('HSET', 'session:' .. session, 'joinedAt', NOW)
record(session, 'agent_joined', 'agentId', id)
return session
