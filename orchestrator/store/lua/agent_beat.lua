-- The heartbeat of an agent. A warm one that left the pool because it was silent joins it again.
--
-- KEYS  agent:{id}, pool:ready
-- ARGV  1 agent id
-- Returns its state, or '' when its record or its session's is gone and it must register again
--
-- agent:{id}  hash  lastBeat       pool:ready  set       session:{id}  hash       deadlines  zset
-- include: clock, deadlines, policy, records
-- defer: return_to_pool
local fields = redis.call('HMGET', KEYS[1], 'state', 'sessionId')
local state, session = fields[1], fields[2]
if not state then return '' end
-- guard: lost-session
if session and (state == 'assigned' or state == 'running') and not session_state(session) then return '' end
redis.call('HSET', KEYS[1], 'lastBeat', NOW)
if state == 'ready' and redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 0 then state = return_to_pool(ARGV[1]) end
if state == 'ready' or state == 'assigned' or state == 'running' then
  set_deadline('beat', ARGV[1], policy_ms('heartbeat_timeout_seconds'))
end
return state
