-- An agent lives. A warm one that was passed over for a late heartbeat is back in the pool.
--
-- KEYS  agent:{id}, pool:ready
-- ARGV  1 agent id
-- Returns its state, or '' when it has no record
--
-- agent:{id}  hash  lastBeat       pool:ready  set
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return '' end
redis.call('HSET', KEYS[1], 'lastBeat', NOW)
if state == 'ready' then redis.call('SADD', KEYS[2], ARGV[1]) end
return state
