-- Serve the sessions that wait, where there is capacity.
--
-- KEYS  none
-- ARGV  none
-- Returns how many sessions are in the queue
--
-- session:queued zset, session:unbound zset, session:{id} hash, pool:memory_low string, nodes set, node:{id} hash
-- include: queue
admit_from_queue()
return redis.call('ZCARD', 'session:queued')
