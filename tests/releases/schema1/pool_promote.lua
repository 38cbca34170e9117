-- Say whether memory is low, and serve the waiting line where there is room.
--
-- KEYS  none
-- ARGV  1 '' or what is short of memory: no agent is to be started  2 seconds for which that holds unless said again
-- Returns how many sessions are in line
--
-- pool:memory_low string, session:queued zset, session:{id} hash
if ARGV[1] ~= '' then redis.call('SET', 'pool:memory_low', ARGV[1], 'EX', ARGV[2]) else redis.call('DEL', 'pool:memory_low') end
promote()
return redis.call('ZCARD', 'session:queued')
