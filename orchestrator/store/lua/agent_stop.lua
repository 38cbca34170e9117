-- Take one agent out of service because it is unfit; a session of its own gets another agent at once.
--
-- KEYS  agent:{id}
-- ARGV  1 agent id  2 reason
-- Returns its state before, or '' when it is gone
--
-- agent:{id}  hash       pool:ready, pool:starting  set       session:{id}  hash       deadlines  zset
-- include: agents, records, takeover
local state = agent_state(ARGV[1])
if not state or state == 'exited' or state == 'stopping' then return '' end
local session = get(KEYS[1], 'sessionId')
move_agent(ARGV[1], 'stopping', 'reason', ARGV[2])
if session then replace_agent(session, ARGV[1], ARGV[2]) end
return state
