-- Record the process of an agent.
--
-- KEYS  agent:{id}, agent:{id}:pid
-- ARGV  1 pid  2 start ticks  3 boot id  4 node id  5 agent id
-- Returns 1, or 0 when the record is gone
--
-- agent:{id}      hash    pid, startTicks, bootId, node
-- agent:{id}:pid  string  the pid
-- session:unbound  zset      session:{id}:events  stream
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 0 end
redis.call('HSET', KEYS[1], 'pid', ARGV[1], 'startTicks', ARGV[2], 'bootId', ARGV[3], 'node', ARGV[4])
if state == 'starting' then boot_phase(ARGV[5], 'process') end
if state ~= 'exited' then redis.call('SET', KEYS[2], ARGV[1]) end
return 1
