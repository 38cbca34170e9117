-- Take one agent out of service because it is unfit, whatever it does; its session, if any, is seen to at its exit.
--
-- KEYS  agent:{id}
-- ARGV  1 agent id  2 reason
-- Returns its state before, or '' when it is gone
--
-- agent:{id}  hash       pool:ready, pool:starting  set
local state = agent_state(ARGV[1])
if not state or state == 'exited' or state == 'stopping' then return '' end
-- A bound agent keeps its state: at its exit the session must still be known as bound to it.
redis.call('HSET', KEYS[1], 'reason', ARGV[2])
if state == 'ready' or state == 'starting' then move_agent(ARGV[1], 'stopping') end
return state
