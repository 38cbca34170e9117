-- An agent's process is gone. Its session gets another agent in the same room, or ends.
--
-- KEYS  none
-- ARGV  1 agent id  2 how it ended, a reason (JSON of code, params, text)  3 exit code or ''  4 signal or ''  5 peak memory in KiB or ''
-- Returns {session id or '', what became of it, state before}
--       what became of it: '' (no live session of its own) | replaced | waiting | error
--
-- agent:{id} hash, agent:{id}:pid string, agent:{id}:inbox list, agent:{id}:boot list, agents set
-- pool:boot_error string, pool:breaker hash, pool:ready set, pool:starting set, session:{id} hash
-- session:unbound zset, session:queued zset, deadlines zset
-- include: exit, records
local id = ARGV[1]
if agent_state(id) == 'exited' and (ARGV[3] ~= '' or ARGV[4] ~= '') then
  -- It counted as gone already: only now its parent reports how it ended.
  redis.call('HSET', 'agent:' .. id, 'exitCode', ARGV[3], 'signal', ARGV[4], 'peakMemoryKib', ARGV[5])
end
return exit_agent(id, cjson.decode(ARGV[2]), 'exitCode', ARGV[3], 'signal', ARGV[4], 'peakMemoryKib', ARGV[5])
