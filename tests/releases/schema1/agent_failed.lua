-- An agent says that it cannot serve its session any more; its process goes by itself.
--
-- KEYS  none
-- ARGV  1 agent id  2 cause in words
-- Returns what became of the session: '' (not its own any more) | replaced | waiting | error
--
-- agent:{id} hash, session:{id} hash, session:unbound zset, pool:ready set, deadlines zset
local id, cause = ARGV[1], ARGV[2]
local state = agent_state(id)
if state ~= 'assigned' and state ~= 'running' then return '' end
local session = get('agent:' .. id, 'sessionId')
move_agent(id, 'stopping', 'reason', cause)
return replace_agent(session, id, cause)
